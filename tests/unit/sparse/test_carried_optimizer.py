"""sparsify(model, masks, optimizer=…): the optimizer's next step is the one that the held model would have taken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from changing_cases import MODELS
from secateur import Masks, Pruner, SecateurError, hold, methods, prune, sparsify
from secateur.sparse import Machine, SparseLinear, dense_shapes

Make = Callable[[Any], optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain": lambda p: optim.SGD(p, lr=0.1),
    "adam": lambda p: optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "amsgrad": lambda p: optim.AdamW(p, lr=1e-2, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, lr=1e-2),
    "radam": lambda p: optim.RAdam(p, lr=1e-2),
    "adamax": lambda p: optim.Adamax(p, lr=1e-2),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "rprop": lambda p: optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: optim.ASGD(p, lr=1e-2, t0=2),
}


def trained(kind: str, make: Make, steps: int = 4) -> tuple[nn.Module, Masks, optim.Optimizer]:
    build, shape = MODELS[kind]
    torch.manual_seed(0)
    net = build()
    masks = prune(net, methods.erk(density=0.3), generator=torch.Generator().manual_seed(1))
    hold(net, masks)
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.randn(8, *shape)), torch.randint(0, 5, (8,))).backward()
        optimizer.step()
    return net, masks, optimizer


def give_gradients(net: nn.Module, fast: nn.Module) -> None:
    """The same gradients to both: those of the sparse model are what its masks keep, sorted as it sorts weights."""
    probe = copy.deepcopy(fast)
    drawn = {name: torch.randn_like(parameter) for name, parameter in net.named_parameters()}
    kept = {n: torch.where(p == 0, 0.0, drawn[n]) if p.dim() > 1 else drawn[n] for n, p in net.named_parameters()}
    probe.load_state_dict(probe.state_dict() | kept)
    for name, parameter in net.named_parameters():
        parameter.grad = kept[name]
    for parameter, gradient in zip(fast.parameters(), probe.parameters(), strict=True):
        parameter.grad = gradient.detach().clone()


@pytest.mark.parametrize("which", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_next_steps_are_those_of_the_held_model(kind: str, which: str, sparse_machine: Machine) -> None:
    net, masks, optimizer = trained(kind, OPTIMIZERS[which])
    twin = copy.deepcopy(net)  # held as well
    goes_on = OPTIMIZERS[which](twin.parameters())
    goes_on.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # its counters would be shared
    fast = sparsify(net, masks, machine=sparse_machine, optimizer=optimizer)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in fast.parameters()}
    assert sum(p.numel() for p in fast.parameters()) < sum(p.numel() for p in net.parameters())
    for _ in range(3):
        give_gradients(twin, fast)
        goes_on.step()
        optimizer.step()
        for name, tensor in fast.state_dict().items():
            torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-6, atol=1e-7)


def test_groups_options_schedulers_and_strangers_stay(sparse_machine: Machine) -> None:
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = Masks({"0.weight": torch.rand(8, 12) < 0.3})
    hold(net, masks)
    other = nn.Parameter(torch.ones(2))
    groups = [{"params": [net[0].weight, net[2].weight]}, {"params": [net[0].bias, net[2].bias, other], "lr": 0.5}]
    optimizer = optim.SGD(groups, lr=0.1)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fast = sparsify(net, masks, machine=sparse_machine, optimizer=optimizer)
    first = fast[0]
    assert isinstance(first, SparseLinear)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(first.values), id(fast[2].weight)]
    assert optimizer.param_groups[1]["params"][2] is other and optimizer.param_groups[1]["lr"] == 0.5
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert tuple(dense_shapes(fast)["0.values"]) == (8, 12)


def test_a_bias_that_is_pruned_whole_leaves_the_optimizer(sparse_machine: Machine) -> None:
    net = nn.GRU(4, 6)
    masks = Masks({"weight_ih_l0": torch.rand(18, 4) < 0.3, "bias_hh_l0": torch.zeros(18, dtype=torch.bool)})
    hold(net, masks)
    optimizer = optim.Adam(net.parameters())
    net(torch.randn(3, 2, 4))[0].sum().backward()
    optimizer.step()
    fast = sparsify(net, masks, machine=sparse_machine, optimizer=optimizer)
    assert len(optimizer.param_groups[0]["params"]) == len(list(fast.parameters())) == 3
    assert set(optimizer.state) == set(fast.parameters())


def test_a_method_that_acts_in_training_goes_on(sparse_machine: Machine) -> None:
    x, y = torch.randn(16, 40), torch.randint(0, 5, (16,))

    def train(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    def begun() -> tuple[nn.Module, Pruner, optim.Optimizer]:
        torch.manual_seed(0)
        net = MODELS["chain"][0]()
        method = methods.rigl(density=0.2, until=16, every=4)
        pruner = Pruner(net, method, generator=torch.Generator().manual_seed(2))
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        train(net, optimizer, 6)
        return net, pruner, optimizer

    whole, expected, optimizer = begun()
    train(whole, optimizer, 14)
    net, pruner, optimizer = begun()
    fast = sparsify(net, pruner.masks, machine=sparse_machine, optimizer=optimizer)
    train(fast, optimizer, 14)
    assert pruner.finish() == expected.finish()
    for name, tensor in fast.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda net: optim.LBFGS(net.parameters()),
            "must remember each entry by itself.*got LBFGS.*make a new optimizer",
        ),
        (lambda net: optim.Adafactor(net.parameters()), "got Adafactor"),
        (lambda net: optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0), "none of its parameters"),
    ],
)
def test_what_cannot_go_on_is_refused_before_anything_changes(
    make: Callable[[nn.Module], optim.Optimizer], words: str, sparse_machine: Machine
) -> None:
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make(net)
    before: list[Tensor] = list(optimizer.param_groups[0]["params"])
    with pytest.raises(SecateurError, match=words):
        sparsify(net, Masks({"0.weight": torch.rand(8, 12) < 0.3}), machine=sparse_machine, optimizer=optimizer)
    assert all(one is other for one, other in zip(before, optimizer.param_groups[0]["params"], strict=True))
