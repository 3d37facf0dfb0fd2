"""Density-diversity: the sum over all pairs by brute force, its gradient by autograd, ties, and who pays."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from online_cases import mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, UnfitModelError, methods
from secateur.penalties import density_and_diversity


def _by_pairs(weight: Tensor) -> Tensor:
    flat = weight.flatten()
    pairs = sum((abs(a - b) for a, b in itertools.combinations(flat, 2)), flat.new_zeros(()))
    return 0.7 * (flat.abs().sum() + pairs / (len(flat) - 1))


@pytest.mark.parametrize("tied", [False, True])
def test_value_and_gradient_are_those_of_all_pairs(tied: bool) -> None:
    drawn = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight = ((drawn * 2).round() / 2 if tied else drawn).requires_grad_()
    term = density_and_diversity(0.7).term
    assert term is not None
    found, wanted = term("w", weight), _by_pairs(weight)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, weight), torch.autograd.grad(wanted, weight))


def test_equal_weights_do_not_push_one_another() -> None:
    weight = torch.full((3, 5), 0.4, requires_grad=True)
    term = density_and_diversity(0.7).term
    assert term is not None
    (grad,) = torch.autograd.grad(term("w", weight), weight)
    torch.testing.assert_close(grad, torch.full_like(weight, 0.7))  # the price of size alone


def test_every_second_step_pays_twice() -> None:
    def moved(every: int, number: int) -> Tensor:
        model = mlp()
        Pruner(model, methods.density_diversity(1.0, until=9, strength=0.1, every=every))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for step in range(number):
            train(model, optimizer, step)
        assert model[0].weight.grad is not None
        return model[0].weight.grad

    plain = mlp()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.0), 1)
    own = plain[0].weight.grad
    assert own is not None
    torch.testing.assert_close(moved(2, 2) - own, 2 * (moved(1, 2) - own))
    assert not torch.equal(moved(1, 2), own)
    other = mlp()
    train(other, torch.optim.SGD(other.parameters(), lr=0.0), 0)
    assert torch.equal(moved(2, 1), other[0].weight.grad)  # type: ignore[arg-type]


def test_convolutions_compete_without_paying_and_a_network_of_them_alone_is_refused() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).double()
    before = conv[0].weight.detach().clone()
    Pruner(conv, methods.density_diversity(0.5, until=9, strength=0.5, every=1))
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    conv(torch.zeros(2, 1, 4, 4, dtype=torch.float64)).sum().backward()  # no gradient reaches the kernels
    linear = conv[2].weight.detach().clone()
    optimizer.step()
    assert torch.equal(conv[0].weight, before) and not torch.equal(conv[2].weight, linear)
    with pytest.raises(UnfitModelError, match=r"none of the prunable tensors is a matrix: 0\.weight"):
        Pruner(nn.Sequential(nn.Conv2d(1, 2, 3)), methods.density_diversity(0.5, until=9))
    with pytest.raises(SecateurError, match="`every` must be at least 1 optimizer step, got 0"):
        methods.density_diversity(0.5, until=9, every=0)


def test_weights_gather_at_few_values() -> None:
    def spread(strength: float) -> float:
        model = mlp()
        pruner = Pruner(model, methods.density_diversity(1.0, until=199, strength=strength, every=1))
        optimizer = sgd(model)
        for number in range(199):
            train(model, optimizer, number % 4)
        flat = model[0].weight.detach().flatten()
        pruner.finish()
        return float((flat[:, None] - flat[None]).abs().mean())

    assert spread(2e-3) < 0.8 * spread(0.0)
