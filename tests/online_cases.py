"""A small network in training, for the tests of what acts meanwhile; in float64, so that rankings are not chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer

MakeOptimizer = Callable[[nn.Module], Optimizer]


def mlp() -> nn.Sequential:
    """The same 12-20-3 network at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3)).double()


def batch(number: int) -> tuple[Tensor, Tensor]:
    """The batch of a training step: 16 examples, the same for the same number."""
    return torch.randn(16, 12, dtype=torch.float64, generator=seeded(number)), torch.arange(16) % 3


def step(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    """One ordinary step of training."""
    inputs, targets = batch(number)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def after_step(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """A mapping that always holds the weights as the last optimizer step left them, before anything else acted."""
    seen: dict[str, Tensor] = {}
    optimizer.register_step_post_hook(lambda *_: seen.update(weights(model)))
    return seen


def dense_gradient(values: Mapping[str, Tensor], masks: Mapping[str, Tensor], numbers: list[int]) -> dict[str, Tensor]:
    """∂L/∂(w ⊙ m), summed over batches: of another network, computed without any hook."""
    given = {name: (tensor * masks.get(name, 1)).requires_grad_() for name, tensor in values.items()}
    losses = [F.cross_entropy(functional_call(mlp(), given, batch(n)[0]), batch(n)[1]) for n in numbers]
    grads = torch.autograd.grad(torch.stack(losses).sum(), list(given.values()))
    return dict(zip(given, grads, strict=True))


def best(values: Tensor, among: Tensor, count: int, *, smallest: bool = False) -> Tensor:
    """True for the `count` largest (smallest) of `values` among the entries allowed, by plain sorting."""
    order = [i for i in values.flatten().argsort(descending=not smallest).tolist() if among.flatten()[i]]
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen.reshape(values.shape)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks agree in every bit of every parameter and buffer."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
