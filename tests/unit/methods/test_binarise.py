"""BNN: signs without zeros, straight-through gradients, clipped weights, ternary where pruned."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, methods, prune
from secateur.gates import BinaryActivation


def test_forward_with_signs_and_gradients_straight_through() -> None:
    model = mlp()
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e-12
    real = weights(model)
    pruner = Pruner(model, methods.binarise(steps=3))
    with torch.no_grad():
        model.get_parameter("0.weight")[1, 0] = 0.0  # while it trains a weight may cross zero: sign(0) = +1
    signs = {n: torch.where(p >= 0, 1.0, -1.0).double() for n, p in real.items() if n.endswith("weight")}
    signs["0.weight"][1, 0] = 1.0
    signs = {name: value.requires_grad_() for name, value in signs.items()}
    inputs, targets = batch(0)
    loss = F.cross_entropy(functional_call(mlp(), {**real, **signs}, inputs), targets)
    grads = dict(zip(signs, torch.autograd.grad(loss, list(signs.values())), strict=True))
    mine = F.cross_entropy(model(inputs), targets)
    assert mine.item() == loss.item()
    mine.backward()
    for name, grad in grads.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad)
        assert set(gates(model)[name](model.get_parameter(name)).unique().tolist()) == {-1.0, 1.0}
    pruner.release()


def test_weights_are_clipped_and_end_as_signs() -> None:
    model = mlp()
    pruner = Pruner(model, methods.binarise(steps=20))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for number in range(20):
        train(model, optimizer, number)
        for name in ("0.weight", "2.weight"):
            assert float(model.get_parameter(name).detach().abs().max()) <= 1
    real = weights(model)
    before = model(batch(0)[0])
    assert pruner.finish().density == 1
    assert torch.equal(model(batch(0)[0]), before)
    for name in ("0.weight", "2.weight"):
        assert torch.equal(model.get_parameter(name).detach(), torch.where(real[name] >= 0, 1.0, -1.0).double())


def test_what_is_pruned_stays_zero_and_the_rest_is_ternary() -> None:
    model = mlp()
    masks = prune(model, methods.magnitude(0.3))
    pruner, optimizer = Pruner(model, methods.binarise(steps=5)), sgd(model)
    for number in range(5):
        train(model, optimizer, number)
    assert pruner.finish() == masks
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert bool((weight[~mask] == 0).all()) and set(weight[mask].unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_activations_of_one_bit(dtype: torch.dtype) -> None:
    inside = 1 - 2 * torch.finfo(dtype).eps
    x = torch.tensor([-2.0, -1.0, -inside, -0.0, 0.0, inside, 1.0, 1.0 + 1e-1], dtype=dtype, requires_grad=True)
    y = BinaryActivation()(x)
    assert y.dtype == dtype and y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 9.0, dtype=dtype))
    assert x.grad is not None and x.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]


def test_with_binary_activations_a_layer_counts_agreements() -> None:
    # XNOR and popcount: Σ w·x over signs = 2 · (how often they agree) − n.
    torch.manual_seed(3)
    layer = nn.Linear(37, 5, bias=False)
    Pruner(layer, methods.binarise(steps=0)).finish()
    x = BinaryActivation()(torch.randn(11, 37))
    agreements = (x[:, None] > 0) == (layer.weight.detach() > 0)
    assert torch.equal(layer(x), (2 * agreements.sum(-1) - 37).float())
