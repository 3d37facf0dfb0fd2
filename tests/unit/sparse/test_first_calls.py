"""Layers that were not timed when they were converted choose at their first call, for each mode and size."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.sparse import SparseConv2d, SparseLinear, densify, report_of, sparsify
from secateur.sparse.convert import _candidates as candidates
from secateur.sparse.layers import NetworkSequential, OneDnnLinear, SparseSequential
from timed_cases import DENSE, SPARSE, Clock, convnet, masks_of, mlp


def test_a_mode_that_was_not_timed_is_timed_at_its_first_call(clock: Clock) -> None:
    model = nn.Linear(12, 16)
    masks = masks_of(model)
    clock.models = [DENSE]
    fast: Any = sparsify(model, masks, example_inputs=torch.rand(4, 12))
    assert type(fast) is SparseLinear
    fast(torch.rand(4, 12))  # with gradients: settled
    clock.first_calls = [SPARSE, DENSE]  # the second of the two ways, dense, is faster; then it is not
    with torch.no_grad():
        for _ in range(3):
            fast(torch.rand(4, 12))
        for _ in range(3):
            fast(torch.rand(40, 12))
    assert not clock.first_calls and fast._choices == {("layer", False, 6): True, ("layer", False, 9): False}
    x = torch.rand(4, 12)
    masks.apply_(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        fast.values.mul_(2)  # the dense weight is built again
        torch.testing.assert_close(fast(x), 2 * model(x) - model.bias)


def test_convolutions_without_a_known_shape_choose_in_both_modes(clock: Clock) -> None:
    model = nn.Conv2d(2, 4, 3)
    masks = masks_of(model)
    fast: Any = sparsify(model, masks)
    assert type(fast) is SparseConv2d
    masks.apply_(model)
    clock.first_calls = [SPARSE, SPARSE]
    x = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(fast(x), model(x))
    fast(x).square().sum().backward()
    model(x).square().sum().backward()
    torch.testing.assert_close(fast.values.grad, fast.plan.gather(model.weight.grad))
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    assert not clock.first_calls and set(fast._choices.values()) == {True}


@pytest.mark.parametrize("build", [mlp, convnet])
def test_runs_of_layers_choose_between_one_call_and_several(clock: Clock, build: Callable[[], nn.Sequential]) -> None:
    model = build()
    masks = masks_of(model)
    x = torch.rand(3, 12) if build is mlp else torch.rand(3, 2, 8, 8)
    clock.models = [DENSE] if build is mlp else [DENSE, DENSE]
    fast: Any = sparsify(model, masks, example_inputs=x)
    assert isinstance(fast, SparseSequential | NetworkSequential)
    masks.apply_(model)
    model.eval(), fast.eval()
    layers = sum(isinstance(child, SparseLinear | SparseConv2d) for child in fast)
    clock.first_calls = [DENSE] * layers + [SPARSE]  # one by one, and each of them through its kernels
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        torch.testing.assert_close(fast(x), model(x))
    assert not clock.first_calls and list(fast._choices.values()) == [True]


def test_copies_choose_for_themselves_and_densify_forgets(clock: Clock) -> None:
    model = nn.Linear(12, 16)
    clock.models = [DENSE]
    fast: Any = sparsify(model, masks_of(model), example_inputs=torch.rand(4, 12))
    clock.first_calls = [SPARSE]
    with torch.no_grad():
        fast(torch.rand(4, 12))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert "_built" not in other.__dict__
        with torch.no_grad():
            torch.testing.assert_close(other(torch.ones(4, 12)), fast(torch.ones(4, 12)))
    assert type(densify(fast)) is nn.Linear


def test_machine_decides_by_numbers_alone(clock: Clock, sparse_machine: Any) -> None:
    fast = sparsify(mlp(), masks_of(mlp()), machine=sparse_machine, example_inputs=torch.rand(3, 12))
    assert not clock.asked and "break-even" in str(report_of(fast))
    with torch.no_grad():
        fast(torch.rand(3, 12))  # nothing is timed at a call


def test_real_timing_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few kept the kernels win by far, with nearly all they lose. Whatever is chosen, it is the same function."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    monkeypatch.setattr(candidates, "whole_verdict", lambda *args, **options: DENSE)
    x = torch.rand(64, 512)
    for density in (0.005, 0.98):
        model = nn.Linear(512, 512).eval()
        masks = masks_of(model, density)
        fast = sparsify(model, masks, example_inputs=x)
        masks.apply_(model)
        assert isinstance(fast, SparseLinear | nn.Linear | OneDnnLinear)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
        assert report_of(fast).layers[0].reason.endswith("inference at 64 × 512") or "too close" in str(report_of(fast))


def test_a_built_weight_is_built_anew_after_eval(clock: Clock) -> None:
    """As averages are kept, `average.data.mul_(decay)`: no version tells of it."""
    clock.models = [DENSE]
    fast: Any = sparsify(nn.Linear(12, 16, bias=False), masks_of(nn.Linear(12, 16)), example_inputs=torch.rand(4, 12))
    clock.first_calls = [SPARSE]  # dense without gradients
    x = torch.rand(4, 12)
    with torch.no_grad():
        before = fast(x)
        fast.values.data.mul_(2)
        torch.testing.assert_close(fast.eval()(x), 2 * before)
