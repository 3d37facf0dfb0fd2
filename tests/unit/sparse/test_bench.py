"""bench: every way to run a network gets a row, and the model stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur import Masks
from secateur._base import door
from secateur.sparse import bench
from secateur.sparse.measured import Machine


def test_every_way_has_a_row(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
    before = copy.deepcopy(model.state_dict())
    masks = Masks({"1.weight": torch.rand(20, 30, generator=generator) < 0.05})
    x, y = torch.randn(8, 5, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)
    rows = {row.name: row for row in bench(model, masks, x, y, seconds=0.01, machine=sparse_machine)}
    assert {"dense, torch", "masked", "sparsified", "fused"} <= set(rows)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    dense, fast, fused = rows["dense, torch"], rows["sparsified"], rows["fused"]
    assert dense.parameter_bytes == 4 * (600 + 20 + 80 + 4)
    assert dense.training_bytes == 3 * dense.parameter_bytes  # weight, gradient, momentum
    assert fast.parameter_bytes == 4 * (masks.kept + 20 + 80 + 4)
    timed = [row for row in rows.values() if row.name != "fused" or not fused.note]
    assert all(row.step and row.latency_1 and row.latency_128 for row in timed)
    if door.native is None:
        assert fused.step is None and "compiled kernels are not in use" in fused.note
    else:
        assert fused.parameter_bytes == fast.parameter_bytes


def test_what_the_fused_step_refuses_is_a_row_with_the_reason(sparse_machine: Machine) -> None:
    if door.native is None:
        pytest.skip("needs the compiled kernels")
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    masks = Masks({"0.weight": torch.eye(5, 6) > 0})
    rows = bench(model, masks, torch.ones(3, 6), torch.zeros(3, dtype=torch.int64), seconds=0.0, machine=sparse_machine)
    assert rows[-1].name == "fused" and rows[-1].note == "'1' is a Tanh, which has no sparse kernel"
