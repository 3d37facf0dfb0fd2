"""ITOP: both forms exchange what they say, and exploration is the share of weights that ever lived."""

from __future__ import annotations

import math

import pytest
import torch

from exchange_cases import Watched
from online_cases import best, mlp, seeded
from online_cases import step as train
from secateur import Pruner, methods, schedule
from secateur._base.errors import SecateurError
from secateur.masks import Masks

UNTIL, EVERY = 20, 4


def _itop(gradient: bool, fraction: float = 0.5):
    return methods.itop(0.2, until=UNTIL, every=EVERY, fraction=fraction, gradient=gradient)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_fraction_falls_along_a_cosine_to_half_a_percent(gradient: bool) -> None:
    moves = 0
    for turn in Watched.by(_itop(gradient)).turns(UNTIL + 3):
        share = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * turn.step / UNTIL))
        for name, alive in turn.before.items():
            assert int(turn.after[name].sum()) == int(alive.sum())
            if turn.step % EVERY or turn.step >= UNTIL:
                assert not turn.moved
                continue
            moved = min(math.floor(share * int(alive.sum())), int((~alive).sum()))
            stay = alive & ~best(turn.stepped[name].abs(), alive, moved, smallest=True)
            assert bool((turn.after[name] >= stay).all())
            if gradient:
                assert torch.equal(turn.after[name], stay | best(turn.dense[name].abs(), ~stay, moved))
            moves += int(turn.grown(name).sum())
    assert moves > 0


def test_exploration_is_the_union_of_all_masks_over_all_weights() -> None:
    watched = Watched.by(_itop(False))
    seen = {name: mask.clone() for name, mask in watched.pruner.masks.items()}
    total, last = watched.pruner.masks.numel, watched.pruner.exploration
    assert last == watched.pruner.masks.density
    for turn in watched.turns(UNTIL):
        seen = {name: bits | turn.after[name] for name, bits in seen.items()}
        found = watched.pruner.exploration
        assert found == sum(int(bits.sum()) for bits in seen.values()) / total
        assert last <= found <= 1
        last = found
    assert last > 1.3 * watched.pruner.masks.density  # it did explore


def test_exploration_of_masks_that_stay_is_their_density_and_of_a_dense_start_all() -> None:
    still = Watched.by(methods.itop(0.2, until=UNTIL, every=EVERY, fraction=0.005))
    assert {still.pruner.exploration for _ in still.turns(UNTIL)} == {still.pruner.masks.density}
    model = mlp()
    pruner = Pruner(model, methods.agp(0.2, end=6, every=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for t in range(8):
        train(model, optimizer, t)
    assert pruner.exploration == 1.0 and pruner.masks.density < 0.3
    at_once = Pruner(mlp(), methods.magnitude(0.3, schedule=schedule.once(0.3)))
    assert at_once.exploration == at_once.masks.density == Masks(dict(at_once.masks)).density


def test_exploration_goes_on_from_a_checkpoint() -> None:
    whole = Watched.by(_itop(False))
    first = Watched.by(_itop(False))
    for _ in whole.turns(UNTIL):
        pass
    for _ in first.turns(9):
        pass
    again = Watched.by(_itop(False), seed=77)
    again.model.load_state_dict(first.model.state_dict())
    again.optimizer.load_state_dict(first.optimizer.state_dict())
    again.pruner.load_state_dict(first.pruner.state_dict())
    assert again.pruner.exploration == first.pruner.exploration > first.pruner.masks.density
    for t in range(10, UNTIL + 1):
        train(again.model, again.optimizer, t)
    assert again.pruner.exploration == whole.pruner.exploration and again.pruner.masks == whole.pruner.masks


def test_bad_clocks_and_fractions_are_refused_with_the_way_out() -> None:
    for make in (methods.itop, methods.rigl, methods.set_, methods.snfs, methods.dsr):
        for wrong in (1.0, 1.5, -0.1):
            with pytest.raises(SecateurError, match=r"`fraction` must be in \[0, 1\)"):
                make(0.1, until=2000, every=5, fraction=wrong)
        with pytest.raises(SecateurError, match=r"`every` must be at least 1 and shorter than .* a later `until`"):
            make(0.1, until=50, every=50)
        with pytest.raises(
            SecateurError, match=r"`until` must come after `begin`, got begin=0 and until=0.*Give a later"
        ):
            make(0.1, until=0, every=5)
    with pytest.raises(SecateurError, match="`until` must come after `begin`, got begin=9 and until=9"):
        methods.rigl(0.1, until=9, every=2, begin=9)
    assert Pruner(mlp(), methods.itop(0.1, until=2000), generator=seeded(0)).masks.kept == 30
