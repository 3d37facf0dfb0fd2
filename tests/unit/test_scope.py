"""Scopes: exact counts in the right pools, nesting, what is best stays; turned upside down, and with a floor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur import scope as scopes
from secateur._base.errors import ScoreError, SecateurError
from secateur.axes.scope import Scope
from secateur.selection import kept_count


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


@pytest.mark.parametrize(
    "scope",
    [*GLOBAL, scopes.layerwise(), scopes.per_row(), scopes.floored(scopes.everywhere(), at_least=3)],
    ids=lambda s: s.name,
)
def test_a_lower_density_keeps_a_subset(scope: Scope) -> None:
    previous = _choose(scope, 1.0)
    for density in (0.8, 0.51, 0.27, 0.1):
        keep = _choose(scope, density)
        assert all(bool((keep[name] <= previous[name]).all()) for name in keep)
        previous = keep


POOLS = [*GLOBAL, scopes.layerwise(), scopes.per_row(), scopes.n_of_m(2, 4), scopes.given({"a": 0.3, "b": 0.6})]
VALUES = [scopes.threshold(0.4), scopes.above(0.7), scopes.above({"a": 0.5, "*": 1.0}, of=scopes.std)]


@pytest.mark.parametrize("scope", [*POOLS, *VALUES, scopes.floored(scopes.erk(), at_least=3)], ids=lambda s: s.name)
def test_what_is_kept_follows_a_permutation_of_the_outputs(scope: Scope) -> None:
    scores = _scores()
    moved = {name: tensor.flip(0) for name, tensor in scores.items()}
    kept, kept_moved = _choose(scope, 0.5, scores), _choose(scope, 0.5, moved)
    assert all(torch.equal(kept_moved[name], bits.flip(0)) for name, bits in kept.items())


@pytest.mark.parametrize("scope", [*POOLS, *VALUES], ids=lambda s: s.name)
def test_nothing_better_is_left_out_in_any_row(scope: Scope) -> None:
    scores = _scores()
    for name, bits in _choose(scope, 0.5, scores).items():
        kept, cut = scores[name].masked_fill(~bits, 99), scores[name].masked_fill(bits, -99)
        window = 4 if scope == scopes.n_of_m(2, 4) else 8
        if scope != scopes.ranked_with(torch.square):
            assert (kept.reshape(-1, window).amin(1) >= cut.reshape(-1, window).amax(1)).all()


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


def test_per_row_leaves_no_row_empty() -> None:
    keep = _choose(scopes.per_row(), 0.01)
    assert all((bits.sum(1) == 1).all() for bits in keep.values())


def test_n_of_m_keeps_n_in_every_group_along_the_inputs() -> None:
    scores = {"conv": torch.randn(3, 8, 2, 2), "fc": torch.randn(5, 12)}
    keep = _choose(scopes.n_of_m(2, 4), 0.5, scores)
    assert (keep["conv"].reshape(3, 2, 4, 2, 2).sum(2) == 2).all()
    assert (keep["fc"].reshape(5, 3, 4).sum(2) == 2).all()


def test_n_of_m_breaks_ties_by_lower_index() -> None:
    keep = _choose(scopes.n_of_m(2, 4), 0.5, {"fc": torch.zeros(1, 4)})
    assert keep["fc"].tolist() == [[True, True, False, False]]


def test_n_of_m_leaves_whole_what_does_not_fit_where_it_may() -> None:
    scores = {"first": torch.rand(5, 3), "fc": torch.rand(5, 8), "bias": torch.rand(8)}
    keep = _choose(scopes.n_of_m(1, 4, rest_whole=True), 0.25, scores)
    assert keep["first"].all() and keep["bias"].all()
    assert torch.equal(keep["fc"], _choose(scopes.n_of_m(1, 4), 0.25, {"fc": scores["fc"]})["fc"])
    with pytest.raises(SecateurError, match="4 divides the number of inputs of none of first, bias"):
        _choose(scopes.n_of_m(1, 4, rest_whole=True), 0.25, {name: scores[name] for name in ("first", "bias")})


def test_n_of_m_refuses_other_densities_and_ragged_inputs() -> None:
    with pytest.raises(SecateurError, match=r"n_of_m\(2, 4\) keeps exactly 0.5, got density=0.3"):
        _choose(scopes.n_of_m(2, 4), 0.3)
    with pytest.raises(SecateurError, match=r"divisible by 4, got 'fc' of shape \(2, 6\)"):
        _choose(scopes.n_of_m(2, 4), 0.5, {"fc": torch.zeros(2, 6)})


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


def test_names_may_be_globs_and_the_most_exact_wins() -> None:
    scores = {name: torch.rand(4, 25) for name in ("conv1", "conv2", "fc1", "head")}
    keep = _choose(scopes.given({"conv*": 0.2, "conv2": 0.4, "*1": 0.1}), None, scores)
    assert [int(bits.sum()) for bits in keep.values()] == [20, 40, 10, 100]
    with pytest.raises(SecateurError, match="`above`: 'gate\\*' is not a prunable tensor"):
        _choose(scopes.above({"gate*": 1.0}), None, scores)


# --- upside down -----------------------------------------------------------------------------------------------------

TIED = {"a": torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0]]), "b": torch.zeros(3, 4)}


@pytest.mark.parametrize("scores", [_scores(), TIED], ids=["distinct", "tied"])
@pytest.mark.parametrize("scope", [*POOLS, *VALUES], ids=lambda s: s.name)
def test_inverted_keeps_as_many_of_each_layer_and_none_of_the_same_up_to_a_half(
    scope: Scope, scores: dict[str, Tensor]
) -> None:
    density = 0.5 if scope == scopes.n_of_m(2, 4) else 0.4
    top, bottom = (_choose(s, density, scores) for s in (scope, scopes.inverted(scope)))
    assert list(top) == list(bottom) and _count(top) == _count(bottom)
    if scope.counted:
        assert not any(bool((top[name] & bottom[name]).any()) for name in top)
    else:  # they may keep more than half: then the two overlap by no more than they must
        for name, bits in top.items():
            kept = int(bits.sum())
            assert int(bottom[name].sum()) == kept
            assert int((bits & bottom[name]).sum()) == max(0, 2 * kept - bits.numel())


@pytest.mark.parametrize("scope", [*POOLS, *VALUES], ids=lambda s: s.name)
def test_inverted_twice_is_the_scope_itself(scope: Scope) -> None:
    assert scopes.inverted(scopes.inverted(scope)) == scope
    assert scopes.inverted(scope) == scopes.inverted(scope) != scope
    assert hash(scopes.inverted(scope)) == hash(scopes.inverted(scope))


def test_inverted_keeps_the_dead_dead() -> None:
    scores = _scores()
    alive = {name: tensor > 0 for name, tensor in scores.items()}
    shapes = {name: tensor.shape for name, tensor in scores.items()}
    keep = scopes.inverted(scopes.everywhere())(scores, shapes, 0.2, alive=alive)
    assert _count(keep) == 16
    living = torch.cat([tensor[alive[name]] for name, tensor in scores.items()]).sort().values
    assert torch.equal(torch.cat([scores[name][bits] for name, bits in keep.items()]).sort().values, living[:16])


# --- with a floor ----------------------------------------------------------------------------------------------------

LAYERS = st.lists(
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.01, 1.0, 50.0])), min_size=1, max_size=5
)


def _layers(sizes: list[tuple[int, int, float]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(sizes))
    return {str(i): torch.rand(o, n, generator=generator) * scale for i, (o, n, scale) in enumerate(sizes)}


@given(LAYERS, st.floats(0.02, 1.0), st.integers(1, 5), st.sampled_from(GLOBAL))
def test_a_floor_holds_in_every_layer_and_the_total_is_kappa(sizes, density: float, least: int, scope: Scope) -> None:
    scores = _layers(sizes)
    size = sum(tensor.numel() for tensor in scores.values())
    needed = sum(min(least, tensor.numel()) for tensor in scores.values())
    floored = scopes.floored(scope, at_least=least)
    if kept_count(density, size) < needed:
        with pytest.raises(SecateurError, match=r"keeps none|units in each layer are"):
            _choose(floored, density, scores)
        return
    keep = _choose(floored, density, scores)
    assert list(keep) == list(scores) and _count(keep) == kept_count(density, size)
    assert all(int(bits.sum()) >= min(least, bits.numel()) for bits in keep.values())
    alone = _choose(scope, density, scores)
    if all(int(bits.sum()) >= min(least, bits.numel()) for bits in alone.values()):
        assert all(torch.equal(keep[name], bits) for name, bits in alone.items())  # no floor was needed


@given(LAYERS, st.floats(0.1, 1.0), st.integers(1, 4))
def test_above_their_floors_layers_compete_everywhere(sizes, density: float, least: int) -> None:
    scores = _layers(sizes)
    keep_count = kept_count(density, sum(tensor.numel() for tensor in scores.values()))
    order = sorted(((float(s), name, i) for name, t in scores.items() for i, s in enumerate(t.flatten())), reverse=True)
    first = [e for name in scores for e in [e for e in order if e[1] == name][:least]]
    if len(first) > keep_count:
        return
    expected = {*first, *[entry for entry in order if entry not in first][: keep_count - len(first)]}
    keep = _choose(scopes.floored(scopes.everywhere(), at_least=least), density, scores)
    assert {
        (float(s), n, i) for n, t in scores.items() for i, s in enumerate(t.flatten()) if keep[n].flatten()[i]
    } == expected


def test_a_floor_lifts_layers_that_a_threshold_would_empty() -> None:
    scores = {"a": torch.tensor([3.0, 4.0, 5.0]), "b": torch.tensor([0.1, 0.3, 0.2])}
    keep = _choose(scopes.floored(scopes.threshold(4.0), at_least=1), None, scores)
    assert {name: bits.tolist() for name, bits in keep.items()} == {
        "a": [False, True, True],
        "b": [False, True, False],
    }


def test_a_floor_that_does_not_fit_is_refused() -> None:
    message = (
        r"`at_least`=3 units in each layer are 6 together, but everywhere at `density`=0.05 keeps 4 of 80. Ask for"
    )
    with pytest.raises(SecateurError, match=message):
        _choose(scopes.floored(scopes.everywhere(), at_least=3), 0.05)
    with pytest.raises(SecateurError, match="`at_least` must be at least 1 unit per layer, got 0"):
        scopes.floored(scopes.everywhere(), at_least=0)


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
    "scope",
    [*POOLS, *VALUES, *map(scopes.inverted, [*POOLS, *VALUES]), scopes.floored(scopes.igq(), at_least=2)],
    ids=lambda s: s.name,
)
def test_scores_that_cannot_be_ranked_are_named(scope: Scope, value: float) -> None:
    scores = _scores()
    scores["b"][1, 2] = value
    with pytest.raises(ScoreError, match="'b'"):
        _choose(scope, 0.5, scores)
