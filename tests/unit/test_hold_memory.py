"""What optimizers remember of a weight that goes or comes: nothing, and everything of all others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from secateur import Masks, hold

Make = Callable[[list[nn.Parameter]], Optimizer]

# Each with the slots that have an entry per weight, and what such a slot is before the first step.
OPTIMIZERS: dict[str, tuple[Make, dict[str, float]]] = {
    "sgd": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer": 0}),
    "adam": (lambda p: optim.Adam(p, amsgrad=True), {"exp_avg": 0, "exp_avg_sq": 0, "max_exp_avg_sq": 0}),
    "adamw": (lambda p: optim.AdamW(p), {"exp_avg": 0, "exp_avg_sq": 0}),
    "rprop": (lambda p: optim.Rprop(p, lr=0.03), {"prev": 0, "step_size": 0.03}),
    "adagrad": (lambda p: optim.Adagrad(p, initial_accumulator_value=0.25), {"sum": 0.25}),
    "rmsprop": (
        lambda p: optim.RMSprop(p, momentum=0.5, centered=True),
        {"square_avg": 0, "momentum_buffer": 0, "grad_avg": 0},
    ),
    "adadelta": (lambda p: optim.Adadelta(p), {"square_avg": 0, "acc_delta": 0}),
    "adamax": (lambda p: optim.Adamax(p), {"exp_avg": 0, "exp_inf": 0}),
    "nadam": (lambda p: optim.NAdam(p), {"exp_avg": 0, "exp_avg_sq": 0}),
    "radam": (lambda p: optim.RAdam(p), {"exp_avg": 0, "exp_avg_sq": 0}),
    "asgd": (lambda p: optim.ASGD(p, t0=0), {"ax": 0}),
    "adafactor": (lambda p: optim.Adafactor(p), {}),
}
if hasattr(optim, "Muon"):
    OPTIMIZERS["muon"] = (lambda p: optim.Muon(p), {"momentum_buffer": 0})

SHAPE = (4, 5)
FIRST = torch.arange(20).reshape(SHAPE) % 2 == 0
SECOND = torch.arange(20).reshape(SHAPE) % 3 == 0


def _begin(make: Make) -> tuple[nn.Linear, Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(5, 4, bias=False)
    return layer, make([layer.weight])


def _step(layer: nn.Linear, optimizer: Optimizer, number: int) -> None:
    optimizer.zero_grad()
    layer(torch.randn(6, 5, generator=torch.Generator().manual_seed(number))).square().sum().backward()
    optimizer.step()


def _state(optimizer: Optimizer, layer: nn.Linear) -> dict[str, object]:
    return copy.deepcopy(dict(optimizer.state[layer.weight]))


def _equal(one: object, other: object) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_goes_and_what_comes_is_forgotten_and_nothing_else(kind: str) -> None:
    make, slots = OPTIMIZERS[kind]
    layer, optimizer = _begin(make)
    held = hold(layer, Masks({"weight": FIRST}))
    for number in range(4):
        _step(layer, optimizer, number)
    before = _state(optimizer, layer)
    per_weight = {key for key, slot in before.items() if isinstance(slot, Tensor) and slot.shape == SHAPE}
    assert per_weight == slots.keys()
    held.replace(Masks({"weight": SECOND}))
    after, changed = _state(optimizer, layer), FIRST ^ SECOND
    for key, slot in before.items():
        if key not in slots:  # counters, and Adafactor's statistics of whole rows and columns
            assert _equal(after[key], slot), key
            continue
        assert isinstance(slot, Tensor) and isinstance(after[key], Tensor)
        assert torch.equal(after[key][~changed], slot[~changed]), key
        torch.testing.assert_close(after[key][changed], torch.full_like(slot[changed], slots[key]), msg=key)
        gone = FIRST & ~SECOND
        assert not torch.equal(slot[gone], after[key][gone]), f"{key} had nothing to forget"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masks_of_a_checkpoint_leave_all_memory_alone(kind: str) -> None:
    layer, optimizer = _begin(OPTIMIZERS[kind][0])
    held = hold(layer, Masks({"weight": FIRST}))
    for number in range(3):
        _step(layer, optimizer, number)
    before = _state(optimizer, layer)
    held.replace(Masks({"weight": SECOND}), forget=False)
    after = _state(optimizer, layer)
    assert before.keys() == after.keys() and all(_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("kind", [k for k, (_, slots) in OPTIMIZERS.items() if slots and k not in ("muon", "asgd")])
def test_a_weight_that_comes_back_moves_as_one_that_was_never_there(kind: str) -> None:
    """Its first step is that of a weight at zero under a fresh memory, whatever its former life was."""
    make, _ = OPTIMIZERS[kind]
    runs = []
    for former in (1.0, -7.0):  # two different former lives of the weights that FIRST holds and SECOND does not
        layer, optimizer = _begin(make)
        held = hold(layer, Masks({"weight": FIRST}))
        gone = FIRST & ~SECOND
        for _ in range(3):
            optimizer.zero_grad()
            (layer.weight * torch.where(gone, former, 1.0)).sum().backward()
            optimizer.step()
        held.replace(Masks({"weight": SECOND}))
        held.replace(Masks({"weight": FIRST}))
        assert bool((layer.weight[gone] == 0).all())
        for _ in range(3):
            optimizer.zero_grad()
            (layer.weight * 0.3).sum().backward()
            optimizer.step()
        runs.append(layer.weight.detach()[gone].clone())
    assert torch.equal(runs[0], runs[1]) and bool((runs[0] != 0).all())


def test_lbfgs_remembers_directions_over_all_and_starts_anew() -> None:
    layer = nn.Linear(5, 4, bias=False)
    optimizer = optim.LBFGS(layer.parameters())
    held = hold(layer, Masks({"weight": FIRST}))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 5)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    held.replace(Masks({"weight": FIRST}))
    assert optimizer.state  # the same masks: nothing to forget
    held.replace(Masks({"weight": SECOND}))
    assert not optimizer.state


def test_every_optimizer_that_stepped_the_weights_forgets() -> None:
    layer = nn.Linear(5, 4, bias=False)
    pair = [optim.SGD([layer.weight], lr=0.1, momentum=0.9), optim.Adam([layer.weight])]
    held = hold(layer, Masks({"weight": FIRST}))
    for number, optimizer in enumerate(pair):
        _step(layer, optimizer, number)
    held.replace(Masks({"weight": SECOND}))
    gone = FIRST & ~SECOND
    assert bool((pair[0].state[layer.weight]["momentum_buffer"][gone] == 0).all())
    assert bool((pair[1].state[layer.weight]["exp_avg"][gone] == 0).all())


def test_an_optimizer_that_has_not_stepped_has_nothing_to_forget() -> None:
    layer, optimizer = _begin(OPTIMIZERS["adam"][0])
    hold(layer, Masks({"weight": FIRST})).replace(Masks({"weight": SECOND}))
    assert not optimizer.state
    _step(layer, optimizer, 0)
    assert bool((layer.weight[~SECOND] == 0).all())
