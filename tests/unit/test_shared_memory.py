"""Two parameters in one memory are refused wherever they would be counted or cut; what only looks alike is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks, SecateurError, methods, prunable, prune, sparsify
from secateur.sparse import BreakEven, Machine, why_no_fused_step


def pair(columns: int = 4) -> Any:
    return nn.Sequential(nn.Linear(4, columns), nn.ReLU(), nn.Linear(columns, 4))


def transposed() -> Any:
    model = pair(6)
    model[2].weight.data = model[0].weight.data.t()
    return model


def same() -> Any:
    model = pair()
    model[2].weight.data = model[0].weight.data
    return model


def part() -> Any:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    whole = torch.randn(6, 6)
    model[0].weight.data, model[2].weight.data = whole[:, :4], whole[4:]
    return model


def embedded() -> Any:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    model[1].weight.data = model[0].weight.data
    return model


@pytest.mark.parametrize("build", [transposed, same, part, embedded])
def test_parameters_in_one_memory_are_refused_by_name(build: Callable[[], Any]) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, two = [name for name, p in model.named_parameters() if p.dim() > 1]
    message = rf"'({one}|{two})' and '({one}|{two})' are two parameters in one memory, .* parameter\.data\.clone\(\)"
    for call in (prunable, lambda m: prune(m, methods.magnitude(0.5)), Masks.from_zeros):
        with pytest.raises(SecateurError, match=message):
            call(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.get_parameter(two).data = model.get_parameter(two).data.clone()  # the way out
    counted = sum(p.numel() for p in prunable(model).values())
    assert prune(model, methods.magnitude(0.5)).numel == counted


def test_an_expanded_parameter_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.data = torch.randn(1, 4).expand(3, 4)
    with pytest.raises(
        SecateurError, match=r"several entries of '0\.weight' are one number .*parameter\.data\.contiguous"
    ):
        prunable(model)
    model[0].weight.data = model[0].weight.data.contiguous()
    prunable(model)


def test_what_shares_a_storage_but_no_entry_is_pruned() -> None:
    """Columns of one matrix, rows of one buffer, tied parameters, and what is not pruned."""
    model = pair()
    whole = torch.randn(4, 8)
    model[0].weight.data, model[2].weight.data = whole[:, ::2], whole[:, 1::2]
    assert prune(model, methods.magnitude(0.5)).numel == 32
    assert int(whole.count_nonzero()) == 16
    flat = torch.randn(40)
    model[0].weight.data, model[2].weight.data = flat[:16].view(4, 4), flat[16:32].view(4, 4).t()
    assert len(prunable(model)) == 2
    tied = pair()
    tied[2].weight = tied[0].weight
    assert list(prunable(tied)) == ["0.weight"]
    apart = nn.Sequential(same(), nn.Linear(4, 2))
    assert list(prunable(apart, "1.weight")) == ["1.weight"]


def test_sparsify_and_compile_step_refuse_it_as_well(sparse_machine: Machine) -> None:
    model = transposed()
    masks = Masks({"0.weight": torch.eye(6, 4) > 0})
    with pytest.raises(SecateurError, match="two parameters in one memory"):
        sparsify(model, masks, machine=sparse_machine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "in one memory" in str(why_no_fused_step(model, masks, nn.functional.cross_entropy, optimizer))


@pytest.fixture
def sparse_machine() -> Machine:
    """A made-up machine, so that none is measured."""
    return Machine("always sparse", False, (BreakEven(64, 128, 0.6),))
