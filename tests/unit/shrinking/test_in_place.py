"""In the middle of a run: the next steps are those of the full model whose removed entries are held at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn, optim

from coupling_nets import residual
from secateur import SecateurError, shrink

OPTIMIZERS: dict[str, Callable[[object], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, nesterov=True),  # pyright: ignore
    "adam": lambda p: optim.Adam(p, 0.01, amsgrad=True),  # pyright: ignore
    "adamw": lambda p: optim.AdamW(p, 0.01),  # pyright: ignore
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.5, centered=True),  # pyright: ignore
    "adagrad": lambda p: optim.Adagrad(p, 0.01),  # pyright: ignore
    "nadam": lambda p: optim.NAdam(p, 0.01),  # pyright: ignore
    "radam": lambda p: optim.RAdam(p, 0.01),  # pyright: ignore
    "adamax": lambda p: optim.Adamax(p, 0.01),  # pyright: ignore
    "adadelta": lambda p: optim.Adadelta(p, 0.5),  # pyright: ignore
    "rprop": lambda p: optim.Rprop(p, 0.01),  # pyright: ignore
    "asgd": lambda p: optim.ASGD(p, 0.01),  # pyright: ignore
}


def train(
    model: nn.Module, optimizer: optim.Optimizer, steps: int, seed: int, after: Callable[[], None] = lambda: None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        model(x).square().sum().backward()
        optimizer.step()
        after()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_steps_are_those_of_the_full_model_held_at_zero(name: str) -> None:
    net, (x,) = residual()
    net.double().train()
    for name_of_bias in ("1.two.bias", "2.two.bias"):  # in front of batch norm: its gradient is rounding
        net.get_parameter(name_of_bias).requires_grad_(False)
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer, 2, seed=1)
    full = copy.deepcopy(net)
    twin = OPTIMIZERS[name](full.parameters())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    small, _, manifest = shrink(net, 0.5, x.double(), optimizer=optimizer, draws=0, modes=("eval",))
    assert small is net

    def kept(key: str, value: torch.Tensor) -> torch.Tensor:
        for dim, index in manifest.kept.get(key, {}).items():
            value = value.index_select(dim, torch.tensor(index))
        return value

    def zero() -> None:
        with torch.no_grad():
            for key, parameter in full.named_parameters():
                for dim, index in manifest.kept.get(key, {}).items():
                    gone = [k for k in range(parameter.shape[dim]) if k not in index]
                    parameter.index_fill_(dim, torch.tensor(gone), 0.0)

    zero()
    train(full, twin, 3, seed=2, after=zero)
    train(small, optimizer, 3, seed=2)
    mine = dict(small.named_parameters())
    for key, value in full.named_parameters():
        torch.testing.assert_close(mine[key], kept(key, value), rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_others_go_on_and_say_that_they_drift(name: str) -> None:
    if not hasattr(optim, name):
        pytest.skip(f"this torch has no {name}")
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    optimizer = getattr(optim, name)(net.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        net(torch.ones(4, 6).double()).square().sum().backward()
        optimizer.step()

    step()
    before = {key: value.clone() for key, value in optimizer.state[net[0].weight].items() if torch.is_tensor(value)}
    certificate, manifest = list(shrink(net, 0.5, torch.ones(2, 6).double(), optimizer=optimizer))[1:]
    assert any(name in each for each in certificate.not_claimed)
    kept = torch.tensor(manifest.kept["0.weight"][0])
    for key, value in optimizer.state[net[0].weight].items():
        whole = before.get(key)
        if whole is not None and whole.ndim == 2:
            wanted = whole.index_select(0, kept) if whole.shape[0] == 8 else whole
            torch.testing.assert_close(value, wanted, msg=key)
    step()
    assert net[0].weight.shape == (4, 6)


def test_a_foreign_optimizer_is_refused_and_nothing_changed() -> None:
    net, inputs = residual()
    state = {key: value.clone() for key, value in net.state_dict().items()}

    with pytest.raises(SecateurError, match="one that trains this model"):
        shrink(net, 0.5, inputs, optimizer=optim.SGD(nn.Linear(2, 2).parameters(), 0.1))
    with pytest.raises(SecateurError, match="must remember each entry by itself"):
        shrink(net, 0.5, inputs, optimizer=optim.LBFGS(net.parameters()))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
