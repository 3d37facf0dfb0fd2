"""`scope.relative`: one ranking in units of each layer's own spread; `scope.by_name`: numbers by name or glob."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur import methods, prune
from secateur._base.errors import SecateurError
from secateur.axes.scope import above, by_name, relative, std


def _scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(40, generator=generator) * scale for name, scale in (("a", 1.0), ("b", 10.0), ("c", 0.1))}


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_one_ranking_after_division_by_the_root_mean_square(density: float) -> None:
    scores = _scores()
    keep = relative()(scores, {name: s.shape for name, s in scores.items()}, density)
    divided = torch.cat([s / math.sqrt(float(s.double().square().mean())) for s in scores.values()])
    kept = torch.cat(list(keep.values()))
    assert int(kept.sum()) == int(density * 120 + 0.5)
    if density < 1:
        assert float(divided[kept].min()) >= float(divided[~kept].max())


def test_it_is_above_with_the_quality_that_leaves_as_many() -> None:
    scores = _scores()
    shapes = {name: s.shape for name, s in scores.items()}
    keep = relative()(scores, shapes, 0.3)
    divided = torch.cat([s.double() / s.double().square().mean().sqrt() for s in scores.values()]).sort().values
    quality = float((divided[-36] + divided[-37]) / 2)
    same = above(quality)(scores, shapes, None)
    assert all(torch.equal(keep[name], same[name]) for name in scores)


def test_what_is_pruned_is_no_part_of_the_statistic_and_scales_do_not_matter() -> None:
    scores = _scores()
    shapes = {name: s.shape for name, s in scores.items()}
    alive = {name: torch.arange(40) % 3 > 0 for name in scores}
    cut = {name: s * alive[name] for name, s in scores.items()}
    keep = relative()(cut, shapes, 0.2, alive=alive)
    only = {name: s[alive[name]] for name, s in scores.items()}
    small = relative()(only, {name: s.shape for name, s in only.items()}, 24 / sum(s.numel() for s in only.values()))
    assert all(torch.equal(keep[name][alive[name]], small[name]) for name in scores)
    again = relative()({name: 1000 * s for name, s in cut.items()}, shapes, 0.2, alive=alive)
    assert all(torch.equal(keep[name], again[name]) for name in scores)


def test_another_statistic_and_a_layer_of_zeros() -> None:
    scores = _scores() | {"d": torch.zeros(10)}
    keep = relative(of=std)(scores, {name: s.shape for name, s in scores.items()}, 0.4)
    assert int(sum(bits.sum() for bits in keep.values())) == 52 and not bool(keep["d"].any())
    assert relative(of=std) == relative(of=std) != relative()


def test_of_a_single_layer_it_is_magnitude() -> None:
    model, twin = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    twin.load_state_dict(model.state_dict())
    assert prune(model, methods.magnitude(0.3, scope=relative())) == prune(twin, methods.magnitude(0.3))


def test_names_win_over_globs_and_the_first_glob_over_the_second() -> None:
    names = ["conv1", "conv2", "fc"]
    assert by_name({"*": 1.0, "conv*": 2.0, "conv2": 3.0}, names, "q") == {"conv1": 1.0, "conv2": 3.0, "fc": 1.0}
    assert by_name({"conv*": 2.0}, names, "q") == {"conv1": 2.0, "conv2": 2.0}
    with pytest.raises(SecateurError, match=r"`q`: 'fd' .*fc"):
        by_name({"fd": 1.0}, names, "q")
