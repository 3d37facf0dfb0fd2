"""What SparseGPT's score has solved on its way is not solved again, and nothing else is taken for it."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from secateur import Masks, methods, prune, repairs
from secateur.repairs import Known, _solve


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 12)).to(dtype)


def batches(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return list((torch.randn(96, 24, dtype=dtype) @ torch.randn(24, 24, dtype=dtype)).split(32))


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers a repair has swept."""
    found: list[int] = []

    def count(self: object, rows: torch.Tensor, keep: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
        found.append(len(rows))
        return repairs.column_sweep(rows, repairs.inverse_factor(moments), keep=keep)[0]

    monkeypatch.setattr(_solve._Sweep, "__call__", count)
    return found


@pytest.mark.parametrize("options", [{}, {"block": 8}, {"pattern": (2, 4)}])
def test_once_is_enough_and_the_same(options: dict, solved: list[int]) -> None:
    once, twice, seen = network(), network(), batches()
    seen[0][:, 5], seen[1][:, 5], seen[2][:, 5] = 0, 0, 0  # a dead input
    method = methods.sparsegpt(0.5, **options)
    masks = prune(once, method, seen)
    assert solved == []
    apart = methods.sparsegpt(0.5, repair=repairs.sweep(channels_last="pattern" in options), **options)
    assert prune(twice, apart, seen) == masks and solved == [16, 12]
    for one, other in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert once[0].weight[:, 5].count_nonzero() == masks["0.weight"][:, 5].sum()  # type: ignore[union-attr]


def test_masks_that_are_not_the_sweeps_own_are_swept_anew(solved: list[int]) -> None:
    seen, model = batches(), network()
    before = Masks({"2.weight": torch.arange(192).reshape(12, 16) % 7 != 0})
    masks = prune(model, methods.sparsegpt(0.5), seen, masks=before)
    assert not bool((masks["2.weight"] & ~before["2.weight"]).any())
    plain = network()
    repairs.reconstruct(plain, masks, repairs.sweep(), seen)
    # The weights that are gone already are not made up for, and so differ from a reconstruction of the dense layer;
    # the first layer had no masks, and was known.
    assert torch.equal(model[0].weight, plain[0].weight)  # type: ignore[arg-type]
    assert bool((model[2].weight[~masks["2.weight"]] == 0).all())  # type: ignore[index]


def test_half_precision_gets_its_own_type(solved: list[int]) -> None:
    model = network(torch.bfloat16)
    prune(model, methods.sparsegpt(0.5), batches(torch.bfloat16))
    assert solved == [] and all(p.dtype == torch.bfloat16 for p in model.parameters())


def test_a_solution_is_found_for_what_it_is_of_and_goes_with_it() -> None:
    known, rows, moments = Known(), torch.randn(3, 4), torch.eye(4)
    kept = torch.rand(3, 4) < 0.5
    for other in ((rows + 1, moments, kept), (rows, moments.clone(), kept), (rows, moments, ~kept)):
        known.keep(rows, moments, kept, rows * kept)
        assert known.find(*other) is None
    known.keep(rows, moments, kept, rows * kept)
    assert torch.equal(known.find(rows, moments, kept), rows * kept)  # type: ignore[arg-type]
    assert known.find(rows, moments, kept) is None  # handed out once
    known.keep(rows, moments, kept, rows)
    assert len(copy.deepcopy(known)._held) == 0
    del moments, other
    gc.collect()
    assert len(known._held) == 0


def test_equal_methods_stay_equal() -> None:
    assert methods.sparsegpt(0.5) == methods.sparsegpt(0.5) != methods.sparsegpt(0.4)
    assert repr(methods.sparsegpt(0.5)) == repr(methods.sparsegpt(0.5))
    assert copy.deepcopy(methods.sparsegpt(0.5)) == methods.sparsegpt(0.5)
