"""The angle penalty: closed forms, what it does not see, and that a step of it drives units apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secateur import SecateurError, structure
from secateur.penalties import angle_similarity


def _price(weight: Tensor, **options: float) -> float:
    term = angle_similarity(1.0, **options).term  # type: ignore[arg-type]
    assert term is not None
    return float(term("w", weight))


def test_units_along_their_mean_cost_one_each_and_those_at_an_angle_what_the_angle_says() -> None:
    assert _price(torch.ones(5, 3, dtype=torch.float64)) == pytest.approx(5, abs=5e-3)
    right = torch.eye(2, dtype=torch.float64)  # 45 degrees to their mean, each
    assert _price(right) == pytest.approx(2 * (1 - 45 / 180))
    angles = [0.1, 0.9, 1.7, 2.0]
    units = torch.tensor([[2 * math.cos(a), 2 * math.sin(a)] for a in angles], dtype=torch.float64)
    x, y = (float(part) for part in units.mean(0))
    mean = math.atan2(y, x)
    assert _price(units) == pytest.approx(sum(1 - abs(a - mean) / math.pi for a in angles))


def test_it_sees_no_size_and_only_the_largest_share_pays() -> None:
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _price(weight * 7) == pytest.approx(_price(weight))
    sizes = torch.tensor([1.0, 50, 2, 60, 3, 70]).reshape(6, 1, 1, 1)
    assert _price(weight * sizes, share=0.5) == pytest.approx(_price((weight * sizes)[[5, 3, 1]]))


def test_columns_are_the_inputs() -> None:
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    term = angle_similarity(0.5, structure=structure.columns()).term
    assert term is not None
    assert float(term("w", weight)) == pytest.approx(0.5 * _price(weight.transpose(0, 1).reshape(5, -1)))


def test_steps_of_it_drive_units_apart_and_zeros_and_equals_have_finite_gradients() -> None:
    weight = (torch.ones(4, 6) + 0.1 * torch.randn(4, 6, generator=torch.Generator().manual_seed(2))).requires_grad_()
    term = angle_similarity(1.0).term
    assert term is not None
    first = _price(weight.detach())
    for _ in range(20):
        (slope,) = torch.autograd.grad(term("w", weight), weight)
        assert bool(torch.isfinite(slope).all())
        with torch.no_grad():
            weight -= 0.1 * slope
    assert _price(weight.detach()) < first - 0.1
    for hard in (torch.zeros(3, 4), torch.ones(3, 4), torch.cat([torch.zeros(1, 4), torch.ones(2, 4)])):
        hard = hard.requires_grad_()
        (slope,) = torch.autograd.grad(term("w", hard), hard)
        assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("share", [0.0, -0.5, 2.0])
def test_bad_numbers_are_refused(share: float) -> None:
    with pytest.raises(SecateurError, match="`share` must be in"):
        angle_similarity(1.0, share=share)
    with pytest.raises(SecateurError, match="`strength`"):
        angle_similarity(-1.0)
