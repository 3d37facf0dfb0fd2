"""Quotas of layers: golden values, and rounding that adds up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.axes import erk_densities, igq_densities, largest_remainder

LENET300 = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
LENET5 = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
VGG16 = {
    **{
        f"conv{i}": (o, n, 3, 3)
        for i, (n, o) in enumerate(
            [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
            + [(512, 512)] * 5
        )
    },
    "fc": (10, 512),
}


def _sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in shapes.items()}


# Golden values, computed from the definitions outside this code base (exact fractions before rounding).
ERK = [
    (LENET300, 0.10, [0.07957, 0.23019, 1.0]),
    (LENET300, 0.05, [0.03848, 0.11133, 0.91851]),
    (LENET300, 0.02, [0.01539, 0.04453, 0.36740]),
    (LENET300, 0.01, [0.00770, 0.02227, 0.18370]),
    (LENET5, 0.10, [1.0, 0.08707, 0.08843, 1.0]),
    (LENET5, 0.05, [0.72612, 0.03748, 0.03806, 1.0]),
    (LENET5, 0.01, [0.13894, 0.00717, 0.00728, 0.22858]),
    (VGG16, 0.10, [1.0, 0.67022, 0.49516, 0.32761, 0.24383, 0.16193, 0.16193, 0.12098, *[0.08049] * 5, 1.0]),
    (VGG16, 0.01, [0.74845, 0.06440, 0.04758, 0.03148, 0.02343, 0.01556, 0.01556, 0.01162, *[0.00773] * 5, 1.0]),
]
IGQ = [
    (LENET300, 0.10, [0.06445, 0.35068, 0.94187]),
    (LENET300, 0.02, [0.01014, 0.07437, 0.70679]),
    (LENET5, 0.05, [0.95464, 0.29622, 0.02563, 0.67789]),
    (VGG16, 0.10, [0.98986, 0.82069, 0.69591, 0.53363, 0.36391, 0.22243, 0.22243, 0.12513, *[0.06674] * 5, 0.97055]),
    (VGG16, 0.01, [0.87812, 0.25246, 0.14447, 0.07786, 0.04051, 0.02067, 0.02067, 0.01044, *[0.00525] * 5, 0.70859]),
]


@pytest.mark.parametrize(("shapes", "density", "expected"), ERK)
def test_erk_golden(shapes: dict[str, tuple[int, ...]], density: float, expected: list[float]) -> None:
    assert list(erk_densities(_sizes(shapes), density).values()) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(("shapes", "density", "expected"), IGQ)
def test_igq_golden(shapes: dict[str, tuple[int, ...]], density: float, expected: list[float]) -> None:
    assert list(igq_densities(_sizes(shapes), density).values()) == pytest.approx(expected, abs=6e-6)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6),
    st.floats(0.01, 1.0),
    st.sampled_from([erk_densities, igq_densities]),
)
def test_quotas_add_up_and_stay_in_range(shapes, density, quota) -> None:
    sizes = {str(i): torch.Size(shape) for i, shape in enumerate(shapes)}
    densities = quota(sizes, density)
    total = sum(size.numel() for size in sizes.values())
    assert all(-1e-12 <= d <= 1 + 1e-9 for d in densities.values())
    kept = sum(densities[name] * sizes[name].numel() for name in sizes)
    assert kept == pytest.approx(density * total, rel=1e-6)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 500), min_size=1, max_size=6), st.floats(0, 1))
def test_largest_remainder_is_exact_and_close(size: dict[str, int], density: float) -> None:
    total = round(density * sum(size.values()))
    ideal = {name: total * n / sum(size.values()) for name, n in size.items()}
    counts = largest_remainder(ideal, size, total)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= size[name] and abs(counts[name] - ideal[name]) < 1 + 1e-5 for name in size)
