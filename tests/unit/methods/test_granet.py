"""GraNet: one ranking cuts along the cubic curve, then each layer regrows what it lost of its own; 0 of it is GMP."""

from __future__ import annotations

import math

import pytest
import torch

from exchange_cases import Watched
from online_cases import best, mlp, sgd
from online_cases import step as train
from secateur import Pruner, methods, schedule, scope
from secateur.axes import erk_densities

END, UNTIL, EVERY = 12, 20, 4


def _granet(initial: float, fraction: float = 0.5):
    return methods.granet(0.2, end=END, until=UNTIL, every=EVERY, initial=initial, fraction=fraction)


@pytest.mark.parametrize("initial", [1.0, 0.5])
def test_a_cut_over_all_layers_then_an_exchange_in_each(initial: float) -> None:
    watched = Watched.by(_granet(initial))
    assert watched.pruner.masks.kept == round(initial * 300)
    regrown = 0
    for turn in watched.turns(UNTIL + 3):
        if turn.step % EVERY or turn.step >= UNTIL:
            assert not turn.moved
            continue
        progress = min(1.0, turn.step / END)
        kept = math.floor((0.2 + (initial - 0.2) * (1 - progress) ** 3) * 300 + 0.5)
        sizes = torch.cat([turn.stepped[name].abs().flatten() for name in turn.before])
        alive = torch.cat([turn.before[name].flatten() for name in turn.before])
        flat = best(sizes, alive, kept).split([turn.before[name].numel() for name in turn.before])
        share = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * turn.step / UNTIL))
        for name, bits in zip(turn.before, flat, strict=True):
            cut = bits.reshape(turn.before[name].shape)
            moved = min(math.floor(share * int(cut.sum())), int((~cut).sum()))
            stay = cut & ~best(turn.stepped[name].abs(), cut, moved, smallest=True)
            assert torch.equal(turn.after[name], stay | best(turn.dense[name].abs(), ~stay, moved)), turn.step
            regrown += int((turn.after[name] & ~cut).sum())
        assert turn.after.kept == kept
    assert regrown > 0 and watched.pruner.finish().kept == 60


def test_the_sparse_form_begins_with_the_quotas_of_erk() -> None:
    masks = Watched.by(_granet(0.5)).pruner.masks
    quota = erk_densities({name: mask.shape for name, mask in masks.items()}, 0.5)
    assert all(abs(int(mask.sum()) - quota[name] * mask.numel()) < 1 for name, mask in masks.items())


def test_without_regeneration_it_is_gradual_magnitude_pruning() -> None:
    # The fraction rises to r' = 0.005 in the end, which of 300 weights moves none.
    model, twin = mlp(), mlp()
    pruner = Pruner(model, _granet(1.0, fraction=0.0))
    plan = schedule.cubic(0.2, begin=0, end=END, every=EVERY)
    gradual = Pruner(twin, methods.magnitude(0.2, schedule=plan, scope=scope.everywhere()))
    optimizers = [sgd(model), sgd(twin)]
    for t in range(1, UNTIL + 3):
        train(model, optimizers[0], t)
        train(twin, optimizers[1], t)
        assert pruner.masks == gradual.masks, t
