"""AGP, SET and RigL against a reference over a thousand steps: plain tensors, no hooks, one shared source of chance."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from online_cases import batch, best, mlp, seeded, sgd
from online_cases import step as train
from secateur import Pruner, methods
from secateur.axes import Method

STEPS, LAYERS = 1000, ("0.weight", "2.weight")
Tensors = dict[str, Tensor]
#: (step, weights after the optimizer's step, dense gradients of the step, masks) → masks.
Rule = Callable[[int, Tensors, Tensors, Tensors], Tensors]


class Reference:
    """The network of `online_cases` trained by SGD with momentum and decay as w ⊙ m, in a dozen lines of tensors."""

    def __init__(self) -> None:
        self.w = {name: p.detach().clone() for name, p in mlp().named_parameters()}
        self.m = {name: torch.ones_like(self.w[name], dtype=torch.bool) for name in LAYERS}
        self.momentum = {name: torch.zeros_like(w) for name, w in self.w.items()}

    def step(self, number: int) -> Tensors:
        """Take a step, and return the gradients with respect to the masked weights, dead ones included."""
        inputs, targets = batch(number)
        used = {name: (w * self.m.get(name, 1)).requires_grad_() for name, w in self.w.items()}
        hidden = torch.tanh(F.linear(inputs, used["0.weight"], used["0.bias"]))
        loss = F.cross_entropy(F.linear(hidden, used["2.weight"], used["2.bias"]), targets)
        dense = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
        for name, w in self.w.items():
            alive = self.m.get(name, torch.ones_like(w, dtype=torch.bool))
            self.momentum[name] = 0.9 * self.momentum[name] + (dense[name] * alive + 1e-3 * w)
            self.w[name] = (w - 0.1 * self.momentum[name]) * alive
        return dense

    def hold(self, masks: Tensors) -> None:
        """Go on with other masks: what goes is zero, and of what goes or comes the momentum is forgotten."""
        for name, mask in masks.items():
            self.momentum[name] = self.momentum[name] * ~(self.m[name] ^ mask)
            self.w[name], self.m[name] = self.w[name] * mask, mask


def _erk(density: float) -> dict[str, int]:
    """The counts of ERK at this density by bisection, the largest remainder rounded up."""
    sizes, raw = {"0.weight": 240, "2.weight": 60}, {"0.weight": 32 / 240, "2.weight": 23 / 60}
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        total = sum(min(1.0, middle * raw[name]) * sizes[name] for name in LAYERS)
        low, high = (middle, high) if total < density * 300 else (low, middle)
    ideal = {name: min(1.0, low * raw[name]) * sizes[name] for name in LAYERS}
    counts = {name: math.floor(ideal[name] + 1e-6) for name in LAYERS}
    most = max(LAYERS, key=lambda name: ideal[name] - counts[name])
    counts[most] += round(density * 300) - sum(counts.values())
    return counts


def _all() -> Tensors:
    return {name: torch.ones_like(mlp().get_parameter(name), dtype=torch.bool) for name in LAYERS}


def _draw(chance: torch.Generator) -> Tensors:
    return {name: torch.rand(mlp().get_parameter(name).shape, generator=chance) for name in LAYERS}


def _agp(chance: torch.Generator) -> Rule:
    def act(t: int, w: Tensors, dense: Tensors, m: Tensors) -> Tensors:
        if t > 800 or t % 50:
            return m
        density = 0.1 + 0.9 * (1 - t / 800) ** 3
        return {n: best(w[n].abs(), m[n], math.floor(density * m[n].numel() + 0.5)) for n in LAYERS}

    return act


def _rigl(chance: torch.Generator) -> Rule:
    def act(t: int, w: Tensors, dense: Tensors, m: Tensors) -> Tensors:
        if t == 0:
            noise, counts = _draw(chance), _erk(0.2)
            return {n: best(noise[n], _all()[n], counts[n]) for n in LAYERS}
        if t >= 750 or t % 25:
            return m
        found = {}
        for n in LAYERS:
            living = int(m[n].sum())
            moved = min(math.floor(0.15 * (1 + math.cos(math.pi * t / 750)) * living), m[n].numel() - living)
            stay = best(w[n].abs(), m[n], living - moved)
            found[n] = stay | best(dense[n].abs(), ~stay, moved)
        return found

    return act


def _shares(w: Tensor) -> Tensor:
    """Of each weight the part of those of its sign that are no farther from zero; 0 of zeros."""
    flat, found = w.flatten().tolist(), []
    for value in flat:
        side = [abs(other) for other in flat if other * value > 0]
        found.append(sum(size <= abs(value) for size in side) / len(side) if side else 0.0)
    return torch.tensor(found, dtype=torch.float64).reshape(w.shape)


def _set(chance: torch.Generator) -> Rule:
    def act(t: int, w: Tensors, dense: Tensors, m: Tensors) -> Tensors:
        if t == 0:
            return _rigl(chance)(0, w, dense, m)
        if t >= 900 or t % 30:
            return m
        noise, found = _draw(chance), {}
        for n in LAYERS:
            living = int(m[n].sum())
            moved = min(math.floor(0.3 * living + 1e-9), m[n].numel() - living)
            stay = best(_shares(w[n]), m[n], living - moved)
            found[n] = stay | best(noise[n], ~stay, moved)
        return found

    return act


CASES: dict[str, tuple[Method, Callable[[torch.Generator], Rule]]] = {
    "agp": (methods.agp(0.1, end=800, every=50), _agp),
    "rigl": (methods.rigl(0.2, until=750, every=25), _rigl),
    "set": (methods.set_(0.2, until=900, every=30), _set),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_are_those_of_the_reference_at_every_step(name: str) -> None:
    method, rule = CASES[name]
    reference, act = Reference(), rule(seeded(5))
    reference.hold(act(0, reference.w, {}, reference.m))
    model = mlp()
    pruner, optimizer = Pruner(model, method, generator=seeded(5)), sgd(model)
    changes = 0
    for t in range(1, STEPS + 1):
        train(model, optimizer, t)
        dense = reference.step(t)
        masks = act(t, reference.w, dense, reference.m)
        changes += any(not torch.equal(masks[n], reference.m[n]) for n in LAYERS)
        reference.hold(masks)
        assert all(torch.equal(pruner.masks[n], reference.m[n]) for n in LAYERS), f"step {t}"
    assert changes >= 12
    for name_, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), reference.w[name_])
