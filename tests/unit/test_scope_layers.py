"""Scopes that tell layers apart: uniform+, Erdős–Rényi of a given ε, layers that are spared, convolutions alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur import Pruner, methods, prune, schedule
from secateur import scope as scopes
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import erk_densities
from secateur.axes._quota import apportioned
from secateur.selection import kept_count
from secateur.testing import case

SHAPES = {"conv": (8, 3, 3, 3), "mid": (40, 30), "head": (10, 20)}  # 216, 1200 and 200 weights


def _scores() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


def _counts(scope: scopes.Scope, density: float | None) -> dict[str, int]:
    scores = _scores()
    found = scope(scores, {name: tensor.shape for name, tensor in scores.items()}, density)
    return {name: int(bits.sum()) for name, bits in found.items()}


# --- uniform+ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.16, 0.2, 0.5, 0.9, 1.0])
def test_uniform_plus_keeps_the_first_whole_a_fifth_of_the_last_and_the_total(density: float) -> None:
    counts = _counts(scopes.uniform_plus(), density)
    assert sum(counts.values()) == kept_count(density, 1616)
    assert counts["conv"] == 216 and counts["head"] >= 40
    rest = kept_count(density, 1616) - 216
    alike = rest / 1400  # the density of both others, if that is a fifth at least
    wanted = 1200 * alike if alike >= 0.2 else rest - 40
    assert abs(counts["mid"] - wanted) <= 1
    assert counts["head"] == 40 or alike >= 0.2


def test_uniform_plus_refuses_what_its_two_layers_exceed_before_anything_is_cut() -> None:
    with pytest.raises(SecateurError, match=r"keeps 'conv' whole and 20% of 'head', which is 0.158 of all weights"):
        _counts(scopes.uniform_plus(), 0.15)
    given = case("conv_bn")
    before = [p.detach().clone() for p in given.model.parameters()]
    with pytest.raises(SecateurError, match=r"more than `density`=0.02. Ask for a higher density"):
        Pruner(given.model, methods.agp(0.02, end=10, every=2, scope=scopes.uniform_plus()))
    with pytest.raises(SecateurError, match=r"more than `density`=0.02"):
        prune(given.model, methods.magnitude(0.02, scope=scopes.uniform_plus()))
    assert all(torch.equal(a, b) for a, b in zip(before, given.model.parameters(), strict=True))


def test_agp_with_uniform_plus_ends_where_the_rule_says() -> None:
    given = case("conv_bn")
    pruner = Pruner(given.model, methods.agp(0.4, end=4, every=2, scope=scopes.uniform_plus()))
    optimizer = torch.optim.SGD(given.model.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(given.model(given.batch[0]), given.batch[1]).backward()
        optimizer.step()
    masks = pruner.finish()
    first, *_, last = masks.layers()
    assert first.density == 1 and last.density >= 0.2 and masks.kept == kept_count(0.4, masks.numel)


def test_two_layers_leave_nothing_to_choose_but_the_last() -> None:
    two = {"a": torch.rand(10, 10), "b": torch.rand(10, 10)}
    keep = scopes.uniform_plus()(two, {name: t.shape for name, t in two.items()}, 0.7)
    assert int(keep["a"].sum()) == 100 and int(keep["b"].sum()) == 40
    with pytest.raises(SecateurError, match=r"which is 0.6 of all weights"):
        scopes.uniform_plus()(two, {name: t.shape for name, t in two.items()}, 0.55)


# --- Erdős–Rényi ------------------------------------------------------------------------------------------------------


def test_erdos_renyi_counts_are_epsilon_times_inputs_plus_outputs() -> None:
    """Of a convolution n_in·n_out stand for every kernel position, as in SET's own code; never more than there are."""
    counts = _counts(scopes.erdos_renyi(5.0), None)
    assert counts == {"conv": 216, "mid": 5 * 70, "head": 5 * 30}
    assert _counts(scopes.erdos_renyi(0.2), None)["conv"] == round(0.2 * 11 * 9)
    with pytest.raises(SecateurError, match="`epsilon` must be positive"):
        scopes.erdos_renyi(0)


def test_set_in_the_form_of_its_paper() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(50, 40), torch.nn.ReLU(), torch.nn.Linear(40, 10))
    quota = scopes.keeping(scopes.erdos_renyi(3), -1)
    method = methods.set_(None, until=10, every=2, quota=quota)
    assert method.density is None
    masks = Pruner(model, method, generator=torch.Generator().manual_seed(0)).masks
    assert int(masks["0.weight"].sum()) == 3 * 90 and bool(masks["2.weight"].all())
    with pytest.raises(SecateurError, match=r"needs a density, got None"):
        Pruner(torch.nn.Linear(4, 4), methods.set_(None, until=10, every=2))


# --- spared layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["head", "he*", -1, 2])
def test_spared_layers_stay_whole_and_the_total_stays(layer: str | int) -> None:
    counts = _counts(scopes.keeping(scopes.erk(), layer), 0.3)
    assert counts["head"] == 200 and sum(counts.values()) == kept_count(0.3, 1616)
    shapes = {name: torch.Size(SHAPES[name]) for name in ("conv", "mid")}
    quota = erk_densities(shapes, (kept_count(0.3, 1616) - 200) / 1416)
    assert all(abs(counts[name] - quota[name] * shapes[name].numel()) < 1 for name in shapes)


def test_what_cannot_be_spared_is_refused() -> None:
    with pytest.raises(SecateurError, match=r"'haed' is not a prunable tensor of this model. Did you mean 'head'"):
        _counts(scopes.keeping(scopes.erk(), "haed"), 0.3)
    with pytest.raises(SecateurError, match="3 is not a prunable tensor"):
        _counts(scopes.keeping(scopes.erk(), 3), 0.3)
    with pytest.raises(SecateurError, match=r"keeps mid whole, which is 1200 units, more than `density`=0.3"):
        _counts(scopes.keeping(scopes.erk(), "mid"), 0.3)
    with pytest.raises(SecateurError, match="needs a layer"):
        scopes.keeping(scopes.erk())
    with pytest.raises(SecateurError, match="budget of costs"):
        scopes.keeping(scopes.everywhere(cost={"mid": 1.0}), 0)
    assert scopes.keeping(scopes.erk(), 0) == scopes.keeping(scopes.erk(), 0) != scopes.keeping(scopes.erk(), 1)


def test_only_convolutions_compete() -> None:
    counts = _counts(scopes.convolutions(scopes.layerwise()), 0.25)
    assert counts == {"conv": 54, "mid": 1200, "head": 200}
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    method = methods.magnitude(0.5, scope=scopes.convolutions(scopes.layerwise()))
    with pytest.raises(UnfitModelError, match=r"the network has none among 0.weight, 1.weight"):
        prune(model, method)
    assert bool((model[0].weight != 0).all())


# --- sharing out ------------------------------------------------------------------------------------------------------


def test_what_overflows_goes_to_the_others_in_proportion() -> None:
    assert apportioned(100, {"a": 8.0, "b": 1.0, "c": 1.0}, {"a": 20, "b": 60, "c": 60}) == {"a": 20, "b": 40, "c": 40}
    assert apportioned(7, {"a": 0.0, "b": 0.0}, {"a": 2, "b": 12}) == {"a": 1, "b": 6}
    assert apportioned(14, {"a": 1.0, "b": 0.0}, {"a": 2, "b": 12}) == {"a": 2, "b": 12}
    assert apportioned(0, {"a": 1.0}, {"a": 0}) == {"a": 0}


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_the_clock_of_exchanges() -> None:
    assert [step for step, _ in schedule.exchanges(0.1, every=10, until=31).milestones] == [0, 10, 20, 30]
    assert [step for step, _ in schedule.exchanges(0.1, every=10, until=40, begin=15).milestones] == [0, 15, 25, 35]
    for make in (schedule.exchanges, schedule.repeated):
        with pytest.raises(
            SecateurError, match="`every` must be at least 1 and shorter than the time it is repeated in, 50 steps"
        ):
            make(0.1, every=50, until=50)
    with pytest.raises(SecateurError, match="`until` must come after `begin`, got begin=20 and until=20"):
        schedule.exchanges(0.1, every=5, until=20, begin=20)


def test_granets_curve_by_its_published_formula() -> None:
    """s_t = s_i + (s_f − s_i)(1 − (1 − t/t_f)³), four updates: by hand from ½ to 95 %, and the last one is s_f."""
    plan = schedule.gradual(0.05, end=4000, until=8000, every=1000, initial=0.5)
    got = [(step, round(1 - density, 8)) for step, density in plan.milestones]
    curve = [(0, 0.5), (1000, 0.76015625), (2000, 0.89375), (3000, 0.94296875), (4000, 0.95)]
    assert got == [*curve, (5000, 0.95), (6000, 0.95), (7000, 0.95)]
    # The authors' code leaves the last update out and misses the target by (s_f − s_i)/n³.
    assert pytest.approx(0.45 / 4**3) == 0.95 - 0.94296875
    dense = schedule.gradual(0.05, end=4000, until=4001, every=1000).milestones
    assert dense[0] == (1000, pytest.approx(1 - 0.95 * (1 - 0.75**3))) and dense[-1] == (4000, 0.05)


def test_a_curve_that_ends_after_the_clock_or_before_it_begins_is_refused() -> None:
    with pytest.raises(SecateurError, match="`until` must not come before `end`, got end=20 and until=10"):
        schedule.gradual(0.1, end=20, until=10, every=2)
    with pytest.raises(SecateurError, match="0 <= begin < end"):
        schedule.gradual(0.1, end=0, until=10, every=2)
