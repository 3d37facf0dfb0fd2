"""RigL against its definition: what goes, what comes, at which step, and with which memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from exchange_cases import Watched
from online_cases import MakeOptimizer, adam, after_step, batch, best, dense_gradient, mlp, same, seeded, sgd, weights
from online_cases import step as train
from secateur import Pruner, hold, measures, methods
from secateur.axes import erk_densities
from secateur.masks import Masks

UNTIL, EVERY, ALPHA = 20, 4, 0.4


def _rigl(fraction: float = ALPHA):
    return methods.rigl(0.3, until=UNTIL, every=EVERY, fraction=fraction)


def _expected(before: Masks, stepped: dict, dense: dict, t: int) -> dict:
    """Algorithm 1, by sorting: drop the k smallest |w| of the living, grow the k largest |∂L/∂w| of the rest."""
    share = ALPHA / 2 * (1 + math.cos(math.pi * t / UNTIL))
    found = {}
    for name, alive in before.items():
        moved = min(math.floor(share * int(alive.sum())), int((~alive).sum()))
        stay = alive & ~best(stepped[name].abs(), alive, moved, smallest=True)
        found[name] = stay | best(dense[name].abs(), ~stay, moved)
    return found


@pytest.mark.parametrize("make", [sgd, adam])
def test_every_exchange_is_that_of_the_paper(make: MakeOptimizer) -> None:
    model = mlp()
    optimizer = make(model)  # made before the Pruner
    pruner = Pruner(model, _rigl(), generator=seeded(5))
    stepped = after_step(model, optimizer)
    counts = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    moves = 0
    for t in range(1, 2 * UNTIL):
        before = pruner.masks
        dense = dense_gradient(weights(model), before, [t])
        train(model, optimizer, t)
        exchange = t % EVERY == 0 and t < UNTIL
        wanted = _expected(before, stepped, dense, t) if exchange else dict(before)
        for name, mask in pruner.masks.items():
            assert torch.equal(mask, wanted[name]), f"{name} at step {t}"
            assert int(mask.sum()) == counts[name]
            parameter, survivors = model.get_parameter(name), mask & before[name]
            grown = mask & ~before[name]
            assert torch.equal(parameter[survivors], stepped[name][survivors])
            assert bool((parameter[grown] == 0).all()) and bool((parameter[~mask] == 0).all())
            for key in {"momentum_buffer", "exp_avg", "exp_avg_sq"} & optimizer.state[parameter].keys():
                slot = optimizer.state[parameter][key]
                assert bool((slot[grown] == 0).all()) and bool((slot[~mask] == 0).all())
                assert bool((slot[survivors] != 0).any())
            moves += int(grown.sum())
    assert moves > 0


def test_it_starts_at_random_with_the_quotas_of_erk() -> None:
    models = [mlp(), mlp(), mlp()]
    first, again, other = (
        Pruner(m, _rigl(), generator=seeded(s)).masks for m, s in zip(models, (1, 1, 2), strict=True)
    )
    assert first == again and first != other
    quota = erk_densities({name: mask.shape for name, mask in first.items()}, 0.3)
    assert all(abs(int(mask.sum()) - quota[name] * mask.numel()) < 1 for name, mask in first.items())
    assert first.kept == 90


def test_several_backwards_before_a_step_grow_by_the_summed_gradient() -> None:
    model = mlp()
    pruner, optimizer = Pruner(model, _rigl(), generator=seeded(5)), sgd(model)
    stepped = after_step(model, optimizer)
    for t in range(1, EVERY + 1):
        before, parts = pruner.masks, [t, 100 + t, 200 + t]
        dense = dense_gradient(weights(model), before, parts)
        optimizer.zero_grad(set_to_none=t % 2 == 0)
        for number in parts:
            inputs, targets = batch(number)
            F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    assert pruner.masks == Masks(_expected(before, stepped, dense, EVERY)) != before


def test_batches_of_ones_own_are_looked_at_after_the_step() -> None:
    model = mlp()
    pruner = Pruner(model, _rigl(), [batch(99)], generator=seeded(5))
    optimizer = sgd(model)
    for t in range(1, EVERY + 1):
        before = pruner.masks
        stepped = after_step(model, optimizer)
        train(model, optimizer, t)
    dense = dense_gradient(stepped, before, [99])
    assert pruner.masks == Masks(_expected(before, stepped, dense, EVERY)) != before


def test_nothing_moves_from_until_on() -> None:
    model = mlp()
    pruner, optimizer = Pruner(model, _rigl(), generator=seeded(5)), sgd(model)
    history = {}
    for t in range(1, 3 * UNTIL):
        train(model, optimizer, t)
        history[t] = pruner.masks
    assert history[UNTIL - EVERY] != history[UNTIL - EVERY - 1]  # the last exchange
    assert all(history[t] == history[UNTIL - EVERY] for t in range(UNTIL - EVERY, 3 * UNTIL))
    assert pruner.finish() == history[UNTIL]


def test_a_fraction_of_zero_is_training_with_fixed_masks() -> None:
    model, twin = mlp(), mlp()
    pruner = Pruner(model, _rigl(0.0), generator=seeded(5))
    start = pruner.masks
    hold(twin, start)
    optimizers = [sgd(model), sgd(twin)]
    for t in range(1, UNTIL + 3):
        train(model, optimizers[0], t)
        train(twin, optimizers[1], t)
    assert pruner.masks == start and same(model, twin)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_grad_scaler_skips_is_no_step(fused: bool) -> None:
    """A skipped step counts for nothing, its infinite gradients are forgotten, and the scale changes no ranking."""

    def run(broken: set[int]) -> tuple[torch.nn.Module, Masks]:
        model = mlp()
        pruner = Pruner(model, _rigl(), generator=seeded(5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for t in range(1, 2 * EVERY + 1):
            for fails in [True, False] if t in broken else [False]:
                inputs, targets = batch(t)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), targets) * (math.inf if fails else 1)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        assert pruner.step == 2 * EVERY
        return model, pruner.masks

    # Not the very first: torch's fused SGD then starts from a momentum buffer that it never filled.
    (plain, masks), (skipped, again) = run(set()), run({2, EVERY, 2 * EVERY})
    assert masks == again and same(plain, skipped)


# --- its choices ------------------------------------------------------------------------------------------------------


def test_the_first_exchange_is_at_begin_and_the_cosine_runs_from_there() -> None:
    method = methods.rigl(0.3, until=21, every=4, fraction=ALPHA, begin=5)
    for turn in Watched.by(method).turns(24):
        share = ALPHA / 2 * (1 + math.cos(math.pi * (turn.step - 5) / 16))
        acts = turn.step in (5, 9, 13, 17)
        assert turn.moved == acts
        for name, alive in turn.before.items() if acts else ():
            moved = min(math.floor(share * int(alive.sum()) + 1e-9), int((~alive).sum()))
            stay = alive & ~best(turn.stepped[name].abs(), alive, moved, smallest=True)
            assert torch.equal(turn.after[name], stay | best(turn.dense[name].abs(), ~stay, moved)), turn.step


def test_in_the_strict_reading_what_grows_was_not_alive() -> None:
    method = methods.rigl(0.3, until=UNTIL, every=EVERY, fraction=ALPHA, just_dropped=False)
    for turn in Watched.by(method).turns(UNTIL):
        for name, alive in turn.before.items() if turn.step % EVERY == 0 and turn.step < UNTIL else ():
            share = ALPHA / 2 * (1 + math.cos(math.pi * turn.step / UNTIL))
            moved = min(math.floor(share * int(alive.sum())), int((~alive).sum()))
            stay = alive & ~best(turn.stepped[name].abs(), alive, moved, smallest=True)
            assert torch.equal(turn.grown(name), best(turn.dense[name].abs(), ~alive, moved))
            assert torch.equal(turn.gone(name), alive & ~stay)


def test_it_may_grow_by_the_gradients_since_the_last_exchange() -> None:
    evidence = measures.grad(memory=measures.Memory.INTERVAL)
    method = methods.rigl(0.3, until=UNTIL, every=EVERY, fraction=ALPHA, evidence=evidence)
    summed: dict = {}
    for turn in Watched.by(method).turns(UNTIL - 1):
        summed = {name: summed.get(name, 0) + turn.dense[name] for name in turn.before}
        if turn.step % EVERY == 0:
            assert turn.after == Masks(_expected(turn.before, turn.stepped, summed, turn.step)) != turn.before
            summed = {}
