"""Layers that stand still: bit by bit, under any optimizer, batch norms included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import SecateurError
from secateur.retraining import convolutional, frozen, fully_connected, local_parts


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)
        )


def _train(model: nn.Module, optimizer: Optimizer, steps: int = 3, *, to_none: bool = True) -> None:
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=to_none)
        model(torch.randn(8, 1, 4, 4)).square().sum().backward()
        optimizer.step()


OPTIMIZERS: list[Callable[[nn.Module], Optimizer]] = [
    lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
    lambda m: torch.optim.AdamW(m.parameters(), lr=0.05, weight_decay=0.5),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("to_none", [True, False])
def test_what_is_frozen_keeps_its_bits_and_the_rest_learns(
    make: Callable[[nn.Module], Optimizer], before: bool, to_none: bool
) -> None:
    model = _net()
    optimizer = make(model)
    if before:  # momentum and moments that would go on moving them
        _train(model, optimizer, to_none=to_none)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model, convolutional(model)) as still:
        optimizer = optimizer if before else make(model)
        _train(model.train(), optimizer, to_none=to_none)
    assert still == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for name, value in model.state_dict().items():
        stood = name.startswith(("0.", "1."))  # the statistics of the norm too
        assert torch.equal(value, state[name]) == stood, name
    assert all(p.requires_grad for p in model.parameters()) and model[1].training
    before_now = model.get_parameter("0.weight").detach().clone()
    _train(model, make(model))
    assert not torch.equal(before_now, model.get_parameter("0.weight"))  # and outside it learns again


def test_a_norm_that_stands_still_uses_its_running_statistics() -> None:
    model = _net().train()
    x = torch.randn(6, 1, 4, 4)
    expected = _net().eval()(x)
    with frozen(model, convolutional(model)):
        assert torch.equal(model(x), expected)
    assert not torch.equal(model(x), expected)


def test_what_was_frozen_before_stays_frozen_afterwards() -> None:
    model = _net()
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    with pytest.raises(KeyError), frozen(model, ["0.*"]):
        raise KeyError
    assert not model[0].bias.requires_grad and model[0].weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(("names", "said"), [("conv*", "'conv\\*'"), (["0.weigth"], "0.weight"), ("*", "something")])
def test_names_that_fit_nothing_or_everything_are_refused(names: str | list[str], said: str) -> None:
    model = _net()
    with pytest.raises(SecateurError, match=said), frozen(model, names):
        pass
    assert all(p.requires_grad for p in model.parameters())


def test_the_two_parts_cover_the_network_once() -> None:
    model = _net()
    one, other = convolutional(model), fully_connected(model)
    assert sorted([*one, *other]) == sorted(model.state_dict()) and not set(one) & set(other)
    parts = local_parts(model, ["0.weight", "4.weight", "6.weight"])
    assert [part for part, _ in parts] == [["4.weight", "6.weight"], ["0.weight"]]
    with pytest.raises(SecateurError, match="local"):
        local_parts(nn.Sequential(nn.Linear(3, 2)), ["0.weight"])
