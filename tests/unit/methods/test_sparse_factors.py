"""Sparse CNN: exact with full bases, its price, unit atoms, sparse coefficients, and what it costs to compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gate_cases import gates
from secateur import Pruner, methods, prune
from secateur._base.errors import SecateurError


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4)).double()


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    loss = torch.zeros(())
    for _ in range(steps):
        inputs = torch.randn(24, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), torch.arange(24) % 4)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_full_bases_without_a_price_are_exact() -> None:
    model = _net()
    Pruner(model, methods.sparse_factors(steps=0, strength=0.0, row_strength=0.0)).finish()
    for name, value in _net().named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-9, atol=1e-9)


def test_the_error_falls_with_the_number_of_shapes() -> None:
    errors = []
    for shapes in (1, 2, 4, 9):
        model = _net()
        Pruner(model, methods.sparse_factors(steps=0, shapes=shapes)).finish()
        errors.append(float((model.get_parameter("0.weight") - _net().get_parameter("0.weight")).detach().norm()))
    assert errors[0] > errors[1] > errors[2] > 0.01 and errors[3] < 1e-8


def test_the_product_the_price_and_the_count_are_those_of_the_formula() -> None:
    model = _net()
    Pruner(model, methods.sparse_factors(steps=0, strength=0.3, row_strength=0.7, shapes=2, rate=0.2))
    gate = gates(model)["0.weight"]
    p, q, s = gate.channels.detach(), gate.shapes.detach(), gate.coefficients.detach().clone()
    assert p.shape == (3, 3) and q.shape == (3, 2, 9) and s.shape == (3, 2, 5)
    weight = torch.zeros(5, 3, 9, dtype=torch.float64)
    for j in range(5):
        for c in range(3):
            for i in range(3):
                weight[j, c] += p[i, c] * sum(s[i, k, j] * q[i, k] for k in range(2))
    torch.testing.assert_close(gate(model[0].weight).detach(), weight.reshape(5, 3, 3, 3))
    with torch.no_grad():  # the proximal step: each coefficient by ηλ₁, then each row by ηλ₂
        gate.after_step(model[0].weight, 0.5)
    for i in range(3):
        for k in range(2):
            soft = [math.copysign(max(abs(v) - 0.2 * 0.3, 0.0), v) for v in s[i, k].tolist()]
            size = math.sqrt(sum(v * v for v in soft))
            factor = max(0.0, 1 - 0.2 * 0.7 / size) if size else 0.0
            expected = [v * factor if abs(v * factor) >= 1e-4 else 0.0 for v in soft]
            assert gate.coefficients[i, k].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    with torch.no_grad():
        gate.coefficients.copy_(s)
    assert gate.multiplications == 9 + 54 + 30
    with torch.no_grad():
        gate.coefficients[0] = 0
    assert gate.multiplications == 9 + 54 + 20


def test_in_training_atoms_have_length_one_and_coefficients_become_zero() -> None:
    model = _net()
    pruner = Pruner(model, methods.sparse_factors(steps=201, strength=0.1, row_strength=0.1, rate=0.02))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    pruner.adopt(optimizer)
    first = _train(model, optimizer, 1)
    last = _train(model, optimizer, 200)
    gate = gates(model)["0.weight"]
    for atoms in (gate.channels, gate.shapes):
        torch.testing.assert_close(atoms.detach().norm(dim=-1), torch.ones(atoms.shape[:-1], dtype=torch.float64))
    small = gate.coefficients.detach().abs()
    assert bool(((small == 0) | (small >= 1e-4)).all()) and last < first
    assert float((small == 0).double().mean()) > 0.1
    inputs = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    outputs = model(inputs)
    assert pruner.finish().density == 1
    torch.testing.assert_close(model(inputs), outputs)


def test_what_is_pruned_stays_zero() -> None:
    model = _net()
    masks = prune(model, methods.magnitude(0.4))
    pruner = Pruner(model, methods.sparse_factors(steps=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    pruner.adopt(optimizer)
    _train(model, optimizer, 3)
    assert pruner.finish() == masks
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


def test_scaling_the_atoms_leaves_the_weight() -> None:
    model = _net()
    Pruner(model, methods.sparse_factors(steps=0, strength=0.0, row_strength=0.0))
    gate, weight = gates(model)["0.weight"], model.get_parameter("0.weight").detach()
    with torch.no_grad():
        gate.channels.mul_(torch.tensor([[2.0], [0.5], [3.0]]))
        gate.shapes[1].mul_(4.0)
        before = gate(weight).clone()
        gate.after_step(weight, 0.1)
        torch.testing.assert_close(gate(weight), before)


def test_what_makes_no_sense_is_refused() -> None:
    for strength, rows, shapes, said in (
        (-1.0, 0.1, 1, "strength"),
        (0.1, -1.0, 1, "row_strength"),
        (0.1, 0.1, 0, "shapes"),
    ):
        with pytest.raises(SecateurError, match=said):
            methods.sparse_factors(steps=0, strength=strength, row_strength=rows, shapes=shapes)
