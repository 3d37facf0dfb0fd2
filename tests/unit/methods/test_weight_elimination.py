"""Weight elimination: its gradient in closed form, its two limits, and training with the price in the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from online_cases import batch, mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, methods
from secateur.penalties import elimination

STRENGTH, SCALE = 0.01, 0.2


def test_the_gradient_is_that_of_the_closed_form() -> None:
    weight = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    term = elimination(STRENGTH, scale=SCALE).term
    assert term is not None
    (grad,) = torch.autograd.grad(term("w", weight), weight)
    w = weight.detach()
    wanted = STRENGTH * 2 * w * SCALE**2 / (SCALE**2 + w**2) ** 2  # d/dw of λ w²/(w₀² + w²)
    torch.testing.assert_close(grad, wanted)


def test_small_weights_pay_as_under_decay_and_large_ones_one_price() -> None:
    term = elimination(STRENGTH, scale=SCALE).term
    assert term is not None
    small = torch.tensor([1e-5], dtype=torch.float64)
    assert float(term("w", small)) == pytest.approx(STRENGTH * 1e-10 / SCALE**2, rel=1e-6)
    assert float(term("w", torch.tensor([1e4, -1e6]))) == pytest.approx(2 * STRENGTH, rel=1e-6)
    assert float(term("w", torch.tensor([SCALE]))) == pytest.approx(STRENGTH / 2)


def test_training_equals_training_with_the_price_in_the_loss() -> None:
    model, reference = mlp(), mlp()
    pruner = Pruner(model, methods.weight_elimination(1.0, until=5, strength=STRENGTH, scale=SCALE))
    optimizer, twin = sgd(model), sgd(reference)
    for number in range(5):
        train(model, optimizer, number)
        twin.zero_grad()
        price = sum(STRENGTH * (w**2 / (SCALE**2 + w**2)).sum() for w in (reference[0].weight, reference[2].weight))
        (F.cross_entropy(reference(batch(number)[0]), batch(number)[1]) + price).backward()
        twin.step()
    pruner.finish()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="`scale` must be above 0 and finite, got 0"):
        methods.weight_elimination(0.5, until=3, scale=0)
    with pytest.raises(SecateurError, match="`strength` must be at least 0 and finite, got -2"):
        methods.weight_elimination(0.5, until=3, strength=-2)
