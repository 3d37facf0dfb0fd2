"""An exchange in one native call: the same bits as by ranking layer after layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from secateur._base import door
from secateur._base.errors import ScoreError
from secateur.selection import exchanged_at_once, topk_mask

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

SHAPES = {"small": (7, 5), "wide": (30, 784), "large": (300, 784), "one": (1,), "empty": (0, 4)}


def drawn(seed: int, *, levels: int = 0, share: float = 0.05) -> list[dict[str, Tensor]]:
    """Scores, growth and flags; with `levels` many are equal, and some are −0."""
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[str, Tensor]] = []
    for _ in range(2):
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        if levels:
            tensors = {name: (levels * tensor).round() / levels for name, tensor in tensors.items()}
        found.append(tensors)
    found.append({name: torch.rand(shape, generator=generator) < share for name, shape in SHAPES.items()})
    return found


def by_ranking(scores: Tensor, growth: Tensor, alive: Tensor, moved: int, *, just_dropped: bool) -> Tensor:
    """Sort all: the best first, the lower index first among equals."""

    def best(of: Tensor, among: Tensor, count: int) -> Tensor:
        flat, allowed = of.flatten().double().tolist(), among.flatten().tolist()
        order = sorted((i for i in range(len(flat)) if allowed[i]), key=lambda i: (-flat[i], i))[:count]
        chosen = torch.zeros(len(flat), dtype=torch.bool)
        chosen[order] = True
        return chosen.reshape(of.shape)

    stay = best(scores, alive, int(alive.sum()) - moved)
    return stay | best(growth, ~(stay if just_dropped else alive), moved)


def counts_of(alive: Mapping[str, Tensor], fraction: float) -> dict[str, int]:
    living = {name: int(bits.sum()) for name, bits in alive.items()}
    return {name: min(math.floor(fraction * k), alive[name].numel() - k) for name, k in living.items()}


@pytest.mark.parametrize("just_dropped", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize(("levels", "share"), [(0, 0.05), (0, 0.9), (40, 0.05), (3, 0.3)])
def test_it_is_an_exchange_by_sorting(levels: int, share: float, fraction: float, just_dropped: bool) -> None:
    scores, growth, alive = drawn(1, levels=levels, share=share)
    moved = counts_of(alive, fraction)
    found = exchanged_at_once(scores, growth, alive, moved, just_dropped=just_dropped)
    if found is None:  # so many tie that the sample cannot tell: the caller ranks them
        assert levels == 3
        return
    for name, bits in found.items():
        expected = by_ranking(scores[name], growth[name], alive[name], moved[name], just_dropped=just_dropped)
        assert torch.equal(bits, expected), name
        assert int(bits.sum()) == int(alive[name].sum())


def test_the_threads_change_nothing_and_the_flags_are_left_alone() -> None:
    scores, growth, alive = drawn(2)
    moved, before, threads = counts_of(alive, 0.3), {n: b.clone() for n, b in alive.items()}, torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(exchanged_at_once(scores, growth, alive, moved, just_dropped=True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in SHAPES)
    assert all(torch.equal(alive[name], before[name]) for name in SHAPES)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["scores", "growth"])
def test_what_is_not_finite_is_left_to_the_ranking_which_refuses_it(which: str, value: float) -> None:
    scores, growth, alive = drawn(3)
    tensors = scores if which == "scores" else growth
    place = alive["wide"].nonzero()[0] if which == "scores" else (~alive["wide"]).nonzero()[0]
    tensors["wide"][tuple(place)] = value
    assert exchanged_at_once(scores, growth, alive, counts_of(alive, 0.3), just_dropped=True) is None
    with pytest.raises(ScoreError, match=r"NaN|infinite"):
        topk_mask({"wide": tensors["wide"]}, 3)
    away = (~alive["wide"]).nonzero()[0]
    clean, growth, alive = drawn(3)
    clean["wide"][tuple(away)] = value  # of the dead nobody asks what they would be worth
    assert exchanged_at_once(clean, growth, alive, counts_of(alive, 0.3), just_dropped=True) is not None


def test_what_the_kernels_cannot_read_is_left_to_the_ranking() -> None:
    scores, growth, alive = drawn(4)
    moved = counts_of(alive, 0.3)
    doubled = {name: tensor.double() for name, tensor in scores.items()}
    turned = {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in growth.items()}
    assert exchanged_at_once(doubled, growth, alive, moved, just_dropped=True) is None
    assert exchanged_at_once(scores, turned, alive, moved, just_dropped=True) is None


def test_lists_of_another_length_and_counts_that_do_not_fit_are_refused() -> None:
    assert door.native is not None
    bits = torch.zeros(4, dtype=torch.bool)
    where = [[torch.zeros(4).data_ptr()]] * 2 + [[bits.data_ptr()]] * 2
    with pytest.raises(ValueError, match="every layer needs"):
        door.native.exchange(*where, [4, 4], [0, 0], True, 1)
    with pytest.raises(ValueError, match="no more can move"):
        door.native.exchange(*where, [4], [5], True, 1)
    with pytest.raises(ValueError, match="memory of its size"):
        door.native.exchange([0], *where[1:], [4], [1], True, 1)
