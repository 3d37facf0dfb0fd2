"""SET against its definition: the weakest of either sign go, others come at random, the counts stay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from online_cases import MakeOptimizer, adam, after_step, mlp, same, seeded, sgd
from online_cases import step as train
from secateur import Pruner, hold, methods

EVERY, ZETA = 3, 0.3


def _set(fraction: float = ZETA, until: int = 13):
    return methods.set_(0.4, until=until, every=EVERY, fraction=fraction)


def _weakest(values: Tensor, alive: Tensor, most: bool) -> Tensor:
    """The ζ of each sign nearest to zero, the share rounded up (`most`) or down."""
    found = torch.zeros_like(alive)
    for side in (alive & (values > 0), alive & (values < 0)):
        count = ZETA * int(side.sum())
        limit = values[side].abs().sort().values[: math.ceil(count) if most else math.floor(count)]
        if len(limit):
            found |= side & (values.abs() <= limit[-1])
    return found


@pytest.mark.parametrize("make", [sgd, adam])
def test_the_weakest_of_either_sign_go_and_as_many_come(make: MakeOptimizer) -> None:
    model = mlp()
    pruner, optimizer = Pruner(model, _set(), generator=seeded(2)), make(model)
    stepped = after_step(model, optimizer)
    counts = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    came = 0
    for t in range(1, 20):
        before = pruner.masks
        train(model, optimizer, t)
        for name, mask in pruner.masks.items():
            assert int(mask.sum()) == counts[name]
            gone, grown = before[name] & ~mask, mask & ~before[name]
            if t % EVERY or t >= 13:
                assert not bool(gone.any() | grown.any())
                continue
            assert not bool((gone & ~_weakest(stepped[name], before[name], most=True)).any())
            parameter = model.get_parameter(name)
            assert bool((parameter[grown] == 0).all())
            for slot in optimizer.state[parameter].values():
                if slot.shape == parameter.shape:
                    assert bool((slot[grown] == 0).all())
            came += int(grown.sum())
    assert came > 0


def test_the_count_dropped_is_zeta_of_each_sign() -> None:
    """Where nothing that was dropped may return, what goes is seen in full."""
    from dataclasses import replace

    method = _set()
    assert method.regrow is not None
    method = replace(method, regrow=replace(method.regrow, just_dropped=False))
    model = mlp()
    pruner, optimizer = Pruner(model, method, generator=seeded(2)), sgd(model)
    stepped = after_step(model, optimizer)
    for t in range(1, 13):
        before = pruner.masks
        train(model, optimizer, t)
        if t % EVERY:
            continue
        for name, mask in pruner.masks.items():
            gone = before[name] & ~mask
            room = int((~before[name]).sum())
            if ZETA * int(before[name].sum()) > room:
                continue
            assert int(gone.sum()) == math.floor(ZETA * int(before[name].sum()) + 1e-9)
            assert not bool((gone & ~_weakest(stepped[name], before[name], most=True)).any())
            for side in (stepped[name] > 0, stepped[name] < 0):
                assert abs(int((gone & side).sum()) - ZETA * int((before[name] & side).sum())) <= 1


def test_weights_that_never_moved_from_zero_go_first() -> None:
    found = methods.set_(0.5, until=5, every=1).score
    assert found is not None
    ranks = found.function(torch.tensor([0.3, 0.0, -0.1, -0.2, 0.1, 0.2]))
    expected = torch.tensor([3 / 3, 0, 1 / 2, 2 / 2, 1 / 3, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(ranks, expected)


def test_what_comes_is_drawn_evenly_from_what_is_free() -> None:
    """Every free place is as likely: the mean place of 60 exchanges is that of the middle, within its error."""
    model = torch.nn.Linear(40, 50, bias=False).double()
    x = torch.randn(8, 40, dtype=torch.float64)
    pruner = Pruner(model, methods.set_(0.1, until=100, every=1), generator=seeded(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    drawn, expected, variance = 0.0, 0.0, 0.0
    for _ in range(60):
        before = pruner.masks["weight"].flatten()
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        grown = (pruner.masks["weight"].flatten() & ~before).nonzero().flatten().double()
        free = (~before).nonzero().flatten().double()
        drawn += float(grown.sum())
        expected += len(grown) * float(free.mean())
        variance += len(grown) * float(free.var())
    assert abs(drawn - expected) < 4 * variance**0.5


def test_a_fraction_of_zero_is_training_with_fixed_masks() -> None:
    model, twin = mlp(), mlp()
    pruner = Pruner(model, _set(0.0), generator=seeded(5))
    start = pruner.masks
    hold(twin, start)
    optimizers = [sgd(model), sgd(twin)]
    for t in range(1, 15):
        train(model, optimizers[0], t)
        train(twin, optimizers[1], t)
    assert pruner.masks == start and same(model, twin)


def test_the_generator_decides() -> None:
    ends = []
    for seed in (1, 1, 2):
        model = mlp()
        pruner, optimizer = Pruner(model, _set(), generator=seeded(seed)), sgd(model)
        state = torch.get_rng_state()
        for t in range(1, 13):
            train(model, optimizer, t)
        assert torch.equal(state, torch.get_rng_state())
        ends.append(pruner.finish())
    assert ends[0] == ends[1] != ends[2]
