"""DSR, SNFS and Deep-R: weights move between layers, and the total stays exactly what it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from exchange_cases import Turn, Watched
from online_cases import MakeOptimizer, adam, best, mlp, seeded, sgd
from secateur import Pruner, methods, scope
from secateur._base.errors import SecateurError

UNTIL, EVERY, TOTAL = 24, 3, 90


def _acts(turn: Turn) -> bool:
    return turn.step % EVERY == 0 and turn.step < UNTIL


# --- DSR --------------------------------------------------------------------------------------------------------------


def _dsr(threshold: float = 0.05, **options: float):
    return methods.dsr(0.3, until=UNTIL, every=EVERY, fraction=0.1, threshold=threshold, **options)


@pytest.mark.parametrize("start", [1e-3, 0.05, 5.0])
def test_one_threshold_cuts_all_layers_and_survivors_share_what_comes(start: float) -> None:
    watched, threshold, went = Watched.by(_dsr(start)), start, []
    for turn in watched.turns(UNTIL + 4):
        assert turn.after.kept == TOTAL
        if not _acts(turn):
            assert not turn.moved
            continue
        stay, kept_one = {}, False
        for name, alive in turn.before.items():
            size = turn.stepped[name].abs()
            stay[name] = alive & (size >= threshold)
            if not bool(stay[name].any()):
                stay[name], kept_one = best(size, alive, 1), True
        gone = {name: turn.before[name] & ~stay[name] for name in stay}
        count = sum(int(bits.sum()) for bits in gone.values())
        went.append(count)
        free = {name: int((~turn.before[name]).sum()) for name in stay}
        if count <= sum(free.values()):
            assert all(not bool((turn.after[n] & gone[n]).any()) for n in stay)  # what went does not return at once
        survivors = {name: int(bits.sum()) for name, bits in stay.items()}
        for name, bits in stay.items():
            assert bool((turn.after[name] >= bits).all())
            share = count * survivors[name] / sum(survivors.values())
            if not kept_one and all(count * survivors[n] / sum(survivors.values()) <= free[n] for n in stay):
                assert abs(int((turn.after[name] & ~bits).sum()) - share) < 1
        threshold = threshold / 2 if count > 1.1 * 9 else threshold * 2 if count < 0.9 * 9 else threshold
        assert watched.pruner.state_dict()["memory"]["threshold"] == threshold
    assert max(went) > 0
    if start == 1e-3:
        assert went[0] < 9 < max(went)  # too few at first: the threshold doubled until there were enough
    if start == 5.0:
        assert went[0] == TOTAL - 2  # each of the two layers keeps its best


def test_the_threshold_doubles_and_halves_as_scripted() -> None:
    """Weights that never move: at rate 0 exactly those below H go, and what comes is 0, so it goes the next time."""
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)).double()
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.arange(1, 101, dtype=torch.float64).reshape(10, 10))
    pruner = Pruner(model, methods.dsr(0.5, until=9, every=1, fraction=0.2, threshold=1.0), generator=seeded(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    threshold, history = 1.0, []
    for _ in range(8):
        living = torch.cat([p.detach()[pruner.masks[n]] for n, p in model.named_parameters()])
        count = int((living < threshold).sum())
        optimizer.zero_grad()
        model(torch.ones(1, 10, dtype=torch.float64)).sum().backward()
        optimizer.step()
        threshold *= 0.5 if count > 22 else 2 if count < 18 else 1
        history.append(threshold)
        assert pruner.state_dict()["memory"] == {"threshold": threshold}
        assert pruner.masks.kept == 100
    assert len(set(history)) > 3


def test_what_makes_no_sense_for_a_threshold_is_refused() -> None:
    for wrong in ({"threshold": 0.0}, {"tolerance": 1.0}):
        with pytest.raises(SecateurError, match="adaptive needs start > 0 and 0 <= tolerance < 1"):
            _dsr(**wrong)


# --- SNFS -------------------------------------------------------------------------------------------------------------


def _snfs(fraction: float = 0.5):
    return methods.snfs(0.3, until=UNTIL, every=EVERY, fraction=fraction)


@pytest.mark.parametrize("make", [sgd, adam])
def test_momentum_says_how_many_come_to_each_layer_and_where(make: MakeOptimizer) -> None:
    watched, momentum, moves = Watched.by(_snfs(), make=make), {}, 0
    for turn in watched.turns(UNTIL + 4):
        for name in turn.before:  # the average begins at the first gradient
            old = momentum.get(name, turn.dense[name])
            momentum[name] = 0.9 * old + 0.1 * turn.dense[name] if name in momentum else turn.dense[name].clone()
        assert turn.after.kept == TOTAL
        if not _acts(turn):
            assert not turn.moved
            continue
        part = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * turn.step / UNTIL))
        mean = {name: float(momentum[name].abs()[bits].mean()) for name, bits in turn.before.items()}
        stay = {}
        for name, alive in turn.before.items():
            living, sparsity = int(alive.sum()), 1 - int(alive.sum()) / alive.numel()
            gentle = sparsity < 0.2 and mean[name] > sum(mean.values()) / 2
            stay[name] = best(
                turn.stepped[name].abs(), alive, living - math.floor((min(part, sparsity) if gentle else part) * living)
            )
        left = TOTAL - sum(int(bits.sum()) for bits in stay.values())
        room = {name: math.floor(0.99 * int((~bits).sum())) for name, bits in stay.items()}
        ideal = {name: left * mean[name] / sum(mean.values()) for name in mean}
        for name in ideal:
            if ideal[name] > room[name]:  # two layers: what overflows goes to the other
                ideal = {n: float(room[name]) if n == name else left - room[name] for n in ideal}
                break
        for name, bits in stay.items():
            came = int(turn.after[name].sum()) - int(bits.sum())
            assert abs(came - ideal[name]) < 1
            assert torch.equal(turn.after[name], bits | best(momentum[name].abs(), ~bits, came))
            moves += int(turn.grown(name).sum())
    assert moves > 0
    counts = [int(mask.sum()) for mask in watched.pruner.masks.values()]
    assert counts != [72, 18]  # layers did exchange weights


def test_no_layer_gets_more_than_it_has_room_for() -> None:
    """A layer with all of the momentum: it fills up to 99 % of its free places, the rest goes elsewhere."""
    model = nn.Sequential(nn.Linear(20, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    pruner = Pruner(model, methods.snfs(0.5, until=8, every=1, fraction=0.9), generator=seeded(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for t in range(8):
        optimizer.zero_grad()
        (1e6 * model[1].weight.sum() + 1e-3 * model(torch.randn(4, 20, generator=seeded(t)).double()).sum()).backward()
        optimizer.step()
        assert pruner.masks.kept == 55


# --- Deep-R -----------------------------------------------------------------------------------------------------------


def _deep_r(noise: float = 0.5, strength: float = 1e-3, until: int = UNTIL):
    return methods.deep_r(0.3, until=until, strength=strength, noise=noise)


def _plain(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_exactly_kappa_live_after_each_step_and_no_sign_ever_changes() -> None:
    watched, sign, died, came = Watched.by(_deep_r(), make=_plain), {}, 0, 0
    for turn in watched.turns(UNTIL - 1):
        assert turn.after.kept == TOTAL
        memory = watched.pruner.state_dict()["memory"]
        for name, mask in turn.after.items():
            weight = watched.model.get_parameter(name).detach()
            sign.setdefault(name, memory[f"sign.{name}"])
            assert torch.equal(sign[name], memory[f"sign.{name}"]) and set(sign[name].unique().tolist()) == {-1, 1}
            assert bool((weight * sign[name] >= 0)[mask].all())
            crossed = turn.before[name] & (turn.stepped[name] * sign[name] < 0)
            assert torch.equal(turn.gone(name), crossed)
            died, came = died + int(crossed.sum()), came + int(turn.grown(name).sum())
    assert died > 20 and came > 10


def test_drift_and_noise_are_those_of_langevin() -> None:
    """−ηα·sign(w) + ησν: the mean and the deviation of what a step adds, where the loss has no gradient."""
    model = nn.Linear(300, 200, bias=False).double()
    nn.init.constant_(model.weight, 5.0)
    pruner = Pruner(model, methods.deep_r(0.5, until=40, strength=0.3, noise=0.7), generator=seeded(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alive, before = pruner.masks["weight"], model.weight.detach().clone()
    for _ in range(10):
        optimizer.zero_grad()
        (0 * model.weight).sum().backward()
        optimizer.step()
    moved = (model.weight.detach() - before)[alive]
    assert float(moved.mean()) == pytest.approx(-10 * 0.1 * 0.3, abs=4 * 0.1 * 0.7 * 10**0.5 / 30_000**0.5)
    assert float(moved.std()) == pytest.approx(0.1 * 0.7 * 10**0.5, rel=0.02)


def test_what_is_tried_next_is_drawn_evenly_from_all_that_is_dead() -> None:
    """As many of the free places of each layer as its share of them, within four deviations."""
    watched, drawn, expected, variance = Watched.by(_deep_r(noise=2.0, until=200), make=_plain), 0.0, 0.0, 0.0
    for turn in watched.turns(150):
        grown = {n: turn.grown(n) for n in turn.before}
        dead = {n: int((~bits).sum()) for n, bits in turn.before.items()}
        count, part = sum(int(b.sum()) for b in grown.values()), dead["2.weight"] / sum(dead.values())
        drawn, expected = drawn + int(grown["2.weight"].sum()), expected + count * part
        variance += count * part * (1 - part)
    assert drawn > 20 and abs(drawn - expected) < 4 * variance**0.5


def test_from_until_on_there_is_neither_noise_nor_rewiring() -> None:
    watched = Watched.by(_deep_r(until=6), make=_plain)
    twin: dict[str, Tensor] = {}
    for turn in watched.turns(12):
        if turn.step > 6:
            assert not turn.moved
            for name, mask in turn.after.items():
                torch.testing.assert_close(turn.stepped[name], (twin[name] - 0.1 * turn.dense[name]) * mask)
        twin = {name: p.detach().clone() for name, p in watched.model.named_parameters()}


def test_quotas_of_the_beginning_are_a_choice() -> None:
    for make in (methods.deep_r, methods.dsr, methods.snfs):
        clock = {} if make is methods.deep_r else {"every": 2}
        pruner = Pruner(mlp(), make(0.3, until=20, quota=scope.erk(), **clock), generator=seeded(0))
        even = Pruner(mlp(), make(0.3, until=20, **clock), generator=seeded(0))
        assert [int(m.sum()) for m in even.masks.values()] == [72, 18]
        assert pruner.masks.kept == 90 and int(pruner.masks["2.weight"].sum()) > 30
