"""Selection in one pass: a sample brackets the cut, and whatever the sample says the result is the stable sort's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from secateur._base import door
from secateur._base.errors import ScoreError
from secateur.selection import Chosen, _radix, topk_mask

pytestmark = pytest.mark.skipif(door.native is None, reason=f"no compiled kernels: {door.why_not}")

SIZE = 30_000  # well above what is ranked without a sample


def spread() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, generator=generator) * torch.randn(SIZE, generator=generator)


def zeros(share: float) -> Tensor:
    """Non-negative scores, of which a share is 0 (as +0 and as -0)."""
    scores = spread().abs()
    gone = torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) < share
    scores[gone] = 0.0
    scores[gone & (torch.arange(SIZE) % 2 == 0)] = -0.0
    return scores


def few_values() -> Tensor:
    return (spread() * 2).round()


def best_are_equal() -> Tensor:
    """A quarter of ones, and all others below."""
    flat = spread().abs().sigmoid() / 2
    flat[::4] = 1.0
    return flat


def rows_of_their_own_scale() -> Tensor:
    """Neighbours are alike: a short run tells little more than one score."""
    return (spread().view(-1, 300).abs() * torch.logspace(-6, 6, SIZE // 300)[:, None]).flatten()


CASES: dict[str, Callable[[], Tensor]] = {
    "spread": spread,
    "a third zeros": lambda: zeros(1 / 3),
    "nearly all zeros": lambda: zeros(0.97),
    "few values": few_values,
    "all equal": lambda: torch.full((SIZE,), 0.25),
    "best are equal": best_are_equal,
    "rising": lambda: torch.arange(SIZE).float(),
    "falling": lambda: -torch.arange(SIZE).float(),
    "rows": rows_of_their_own_scale,
    "subnormal": lambda: spread() * 1e-42,
}


def cut_up(flat: Tensor) -> dict[str, Tensor]:
    first, empty, second, scalar = flat.tensor_split([7001, 7001, SIZE - 1])
    return {"first": first, "empty": empty, "second": second.clone(), "scalar": scalar.clone().view(())}


def stable_sort(flat: Tensor, keep: int) -> Tensor:
    order = torch.where(flat == 0, 0.0, flat).double().sort(descending=True, stable=True).indices
    return torch.zeros(len(flat), dtype=torch.bool).scatter_(0, order[:keep], True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_stable_sort_whatever_the_scores(name: str, dtype: torch.dtype) -> None:
    flat = CASES[name]().to(dtype)
    for keep in (1, 2, 900, 1500, 7400, 7500, SIZE // 3, 20_000, 20_001, SIZE - 1, SIZE):
        masks = topk_mask(cut_up(flat), keep)
        assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), stable_sort(flat, keep)), keep


def threshold(flat: Tensor, keep: int) -> float | None:
    """What the one pass says that the last score kept is, if it can tell."""
    key = _radix.topk([flat], keep, [torch.empty(flat.shape, dtype=torch.bool)])
    return None if key is None else _radix.value_of(key, flat.dtype)


def test_one_pass_is_enough_where_few_scores_tie() -> None:
    for flat in (spread(), rows_of_their_own_scale(), spread().double()):
        assert threshold(flat, 1500) == float(flat.sort(descending=True).values[1499])
    assert threshold(zeros(0.97), 1500) == 0  # the cut runs through the zeros: they are a bracket of their own


def test_a_cut_at_the_end_of_many_equal_scores_is_left_to_the_digits() -> None:
    assert threshold(best_are_equal(), 7400) is None


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_what_cannot_be_ranked_is_refused_wherever_it_lies(bad: float) -> None:
    for place in (0, 12_345, SIZE - 1):
        flat = spread()
        flat[place] = bad
        with pytest.raises(ScoreError, match=r"`scores\['w'\]` must be finite"):
            topk_mask({"w": flat}, 1500)


def test_threads_change_nothing() -> None:
    flat = spread().repeat(100)  # 3 million scores, each a hundred times: several slices
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(topk_mask({"w": flat}, 150_050)["w"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found) and int(found[0].sum()) == 150_050


# --- what is known of what was kept -----------------------------------------------------------------------------------


def pools() -> Mapping[str, Tensor]:
    return {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([-0.5, 0.5]).double()}


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_nothing_that_is_kept_is_below_the_bound(keep: int, backend: str) -> None:
    for scores in (pools(), {"w": spread()}, {"w": few_values()}):
        chosen = topk_mask(scores, keep)
        for name, tensor in scores.items():
            bound = chosen.lower_bound(name, tensor)
            assert bound is not None and bool((tensor[chosen[name]] >= bound).all())


def test_a_bound_is_of_the_scores_and_the_mask_that_it_was_found_for() -> None:
    scores = pools()
    chosen = topk_mask(scores, 3)
    assert chosen.lower_bound("a", scores["a"].clone()) is None
    assert topk_mask(scores, 0).lower_bound("a", scores["a"]) is None
    assert Chosen({"a": chosen["a"]}).lower_bound("a", scores["a"]) is None
    chosen |= {"a": torch.tensor([False, True, False])}
    assert chosen.lower_bound("a", scores["a"]) is None and chosen.lower_bound("b", scores["b"]) is not None


def test_pools_keep_their_own_bounds() -> None:
    scores = pools()
    both = Chosen.joined([topk_mask({"a": scores["a"]}, 2), topk_mask({"b": scores["b"]}, 2)])
    assert (both.lower_bound("a", scores["a"]), both.lower_bound("b", scores["b"])) == (2.0, -0.5)
