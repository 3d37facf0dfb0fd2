"""Scopes: exact counts in the right pools, golden quotas, nesting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur import scope as scopes
from secateur._base.errors import ScoreError, SecateurError
from secateur.axes import erk_densities, igq_densities, largest_remainder
from secateur.axes.scope import Scope
from secateur.selection import kept_count

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


def _scores(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(6, 8, generator=generator), "b": torch.randn(4, 8, generator=generator) * 3}


def _choose(scope: Scope, density: float | None, scores: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    scores = scores or _scores()
    return scope(scores, {name: tensor.shape for name, tensor in scores.items()}, density)


def _count(keep: dict[str, Tensor]) -> int:
    return sum(int(bits.sum()) for bits in keep.values())


GLOBAL = [scopes.everywhere(), scopes.erk(), scopes.igq(), scopes.ranked_with(torch.square)]


@pytest.mark.parametrize("density", [0.01, 0.13, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("scope", GLOBAL, ids=lambda s: s.name)
def test_exactly_kappa(scope: Scope, density: float) -> None:
    assert _count(_choose(scope, density)) == kept_count(density, 80)


@pytest.mark.parametrize("scope", [*GLOBAL, scopes.layerwise(), scopes.per_row()], ids=lambda s: s.name)
def test_a_lower_density_keeps_a_subset(scope: Scope) -> None:
    previous = _choose(scope, 1.0)
    for density in (0.8, 0.51, 0.27, 0.1):
        keep = _choose(scope, density)
        assert all(bool((keep[name] <= previous[name]).all()) for name in keep)
        previous = keep


def test_everywhere_matches_a_full_sort() -> None:
    scores = _scores()
    keep = _choose(scopes.everywhere(), 0.3)
    flat = torch.cat([tensor.flatten() for tensor in scores.values()])
    kept = torch.cat([bits.flatten() for bits in keep.values()])
    assert set(kept.nonzero().flatten().tolist()) == set(flat.argsort(descending=True)[:24].tolist())


def test_layerwise_keeps_the_fraction_of_every_layer() -> None:
    keep = _choose(scopes.layerwise(), 0.25)
    assert {name: int(bits.sum()) for name, bits in keep.items()} == {"a": 12, "b": 8}


def test_per_row_keeps_the_same_number_in_every_row() -> None:
    scores = _scores()
    keep = _choose(scopes.per_row(), 0.4, scores)
    for name, bits in keep.items():
        assert (bits.sum(1) == 3).all()  # ⌊0.4·8 + ½⌋
        assert (scores[name].masked_fill(~bits, 99).amin(1) >= scores[name].masked_fill(bits, -99).amax(1)).all()


def test_n_of_m_keeps_n_in_every_group_along_the_inputs() -> None:
    scores = {"conv": torch.randn(3, 8, 2, 2), "fc": torch.randn(5, 12)}
    keep = _choose(scopes.n_of_m(2, 4), 0.5, scores)
    assert (keep["conv"].reshape(3, 2, 4, 2, 2).sum(2) == 2).all()
    assert (keep["fc"].reshape(5, 3, 4).sum(2) == 2).all()


def test_n_of_m_breaks_ties_by_lower_index() -> None:
    keep = _choose(scopes.n_of_m(2, 4), 0.5, {"fc": torch.zeros(1, 4)})
    assert keep["fc"].tolist() == [[True, True, False, False]]


def test_n_of_m_refuses_other_densities_and_ragged_inputs() -> None:
    with pytest.raises(SecateurError, match=r"n_of_m\(2, 4\) keeps exactly 0.5, got density=0.3"):
        _choose(scopes.n_of_m(2, 4), 0.3)
    with pytest.raises(SecateurError, match=r"divisible by 4, got 'fc' of shape \(2, 6\)"):
        _choose(scopes.n_of_m(2, 4), 0.5, {"fc": torch.zeros(2, 6)})


def test_threshold_keeps_what_reaches_it() -> None:
    scores = {"a": torch.tensor([[0.1, 0.5], [0.7, -1.0]])}
    assert _choose(scopes.threshold(0.5), 1.0, scores)["a"].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("scope", [scopes.threshold(0.5), scopes.given({"a": 0.5})], ids=lambda s: s.name)
def test_scopes_that_are_not_counted_ignore_the_density(scope: Scope) -> None:
    assert not scope.counted
    expected = _choose(scope, 0.1)
    for density in (None, 1.0):
        keep = _choose(scope, density)
        assert all(torch.equal(keep[name], bits) for name, bits in expected.items())


def test_a_scope_that_counts_needs_a_density() -> None:
    with pytest.raises(SecateurError, match=r"Scope everywhere needs a density, got None.*`threshold`"):
        _choose(scopes.everywhere(), None)


def test_given_densities() -> None:
    keep = _choose(scopes.given({"a": 0.5}), 1.0)
    assert (int(keep["a"].sum()), int(keep["b"].sum())) == (24, 32)
    with pytest.raises(SecateurError, match=r"'aa' is not a prunable tensor of this model. Did you mean 'a'?"):
        _choose(scopes.given({"aa": 0.5}), 1.0)


def test_a_budget_is_the_longest_affordable_prefix() -> None:
    scores = {"cheap": torch.tensor([[3.0, 1.0]]), "dear": torch.tensor([[2.0, 0.5]])}
    keep = _choose(scopes.everywhere(cost={"cheap": 1.0, "dear": 10.0}), 0.5, scores)  # budget 11 of 22
    assert keep["cheap"].tolist() == [[True, False]]  # 3.0 (1), 2.0 (11); the next would cost 12
    assert keep["dear"].tolist() == [[True, False]]


def test_pruned_units_stay_pruned_whatever_their_score() -> None:
    scores = _scores()
    alive = {name: tensor < 0 for name, tensor in scores.items()}  # only the lowest half may live
    shapes = {name: tensor.shape for name, tensor in scores.items()}
    keep = scopes.everywhere()(scores, shapes, 0.2, alive=alive)
    assert _count(keep) == 16
    assert all(bool((keep[name] <= alive[name]).all()) for name in keep)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "scope", [*GLOBAL, scopes.layerwise(), scopes.per_row(), scopes.n_of_m(2, 4), scopes.threshold(0.0)], ids=str
)
def test_scores_that_cannot_be_ranked_are_named(scope: Scope, value: float) -> None:
    scores = _scores()
    scores["b"][1, 2] = value
    with pytest.raises(ScoreError, match="'b'"):
        _choose(scope, 0.5, scores)
