"""The sensitivity scan against plain loops, and the smallest network against its limit and against brute force."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prune
from secateur._base.errors import SecateurError
from secateur.methods import lwc
from secateur.scanning import DENSITIES, sensitivity, smallest

GRID = (1.0, 0.6, 0.3, 0.1)


def _net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)).double()


def _lost(seed: int = 0):
    """The distance of the outputs from those of the dense network, on data of its own."""
    inputs = torch.randn(64, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    target = _net(seed)(inputs).detach()

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(inputs), target))

    return evaluate


def _cut(weight: Tensor, kept: int) -> Tensor:
    order = weight.abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[:kept]] = True
    return mask.reshape(weight.shape)


def test_each_level_is_the_error_of_that_layer_cut_alone() -> None:
    evaluate, found = _lost(), sensitivity(_net(), _lost(), densities=GRID)
    assert found.dense == 0 and list(found.levels) == ["0.weight", "2.weight", "4.weight"]
    for name, levels in found.levels.items():
        assert [level.density for level in levels] == list(GRID) and levels[0].error == 0
        for level in levels:
            model = _net()
            weight = model.get_parameter(name)
            assert level.kept == int(level.density * weight.numel() + 0.5)
            weight.detach().mul_(_cut(weight.detach(), level.kept))
            assert level.error == pytest.approx(evaluate(model), rel=1e-12, abs=1e-18)


def test_the_quality_keeps_exactly_the_weights_of_its_level() -> None:
    found = sensitivity(_net(3), _lost(3), densities=[*GRID, 0.9, 0.02])
    for name, levels in found.levels.items():
        for level in levels:
            if level.kept:
                masks = prune(_net(3), lwc(quality={name: level.quality}))
                assert torch.equal(masks[name], _cut(_net(3).get_parameter(name).detach(), level.kept))


def test_the_model_is_left_as_found_whatever_evaluate_does() -> None:
    model = nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.Linear(7, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(8, 9)
    torch.manual_seed(4)
    state = torch.get_rng_state()

    def noisy(network: nn.Module) -> float:
        network.eval()
        torch.rand(3)
        network.train()(x)
        return float(network(x).square().mean().sqrt())

    sensitivity(model, noisy, densities=GRID)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and torch.equal(state, torch.get_rng_state())

    def failing(network: nn.Module) -> float:
        if bool((network.get_parameter("2.weight") == 0).any()):
            raise RuntimeError("out of data")
        return 0.0

    with pytest.raises(RuntimeError, match="out of data"):
        sensitivity(model, failing, densities=GRID)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("within", [0.0, 0.003, 0.03, 0.3, 100.0])
def test_the_smallest_obeys_its_limit_and_no_layer_can_take_one_more_step(within: float) -> None:
    model, evaluate = _net(1), _lost(1)
    scan = sensitivity(model, evaluate, densities=GRID)
    found = smallest(model, evaluate, within=within, scan=scan)
    assert found.error <= found.dense + within
    cut = _net(1)
    found.masks.apply_(cut)
    assert evaluate(cut) == pytest.approx(found.error, rel=1e-12, abs=1e-18)  # measured again from the masks
    assert all(found.masks[name].sum() == level.kept for name, level in found.levels.items())
    places = {name: scan.levels[name].index(level) for name, level in found.levels.items()}
    for name, place in places.items():
        if place + 1 < len(GRID):
            more = _net(1)
            for other, kept in (
                {n: level.kept for n, level in found.levels.items()} | {name: scan.levels[name][place + 1].kept}
            ).items():
                weight = more.get_parameter(other)
                weight.detach().mul_(_cut(weight.detach(), kept))
            assert evaluate(more) > found.dense + within, name
    if within == 0:
        assert found.masks.density == 1 and found.error == 0
    if within == 100:
        assert all(level == scan.levels[name][-1] for name, level in found.levels.items())


def test_the_smallest_is_near_the_best_of_all_combinations() -> None:
    model, evaluate, within = _net(2), _lost(2), 0.02
    scan = sensitivity(model, evaluate, densities=GRID)
    best = sum(scan.sizes.values())
    for choice in itertools.product(*scan.levels.values()):
        cut = _net(2)
        for name, level in zip(scan.levels, choice, strict=True):
            weight = cut.get_parameter(name)
            weight.detach().mul_(_cut(weight.detach(), level.kept))
        if evaluate(cut) <= within:
            best = min(best, sum(level.kept for level in choice))
    found = smallest(model, evaluate, within=within, scan=scan)
    assert best <= found.masks.kept <= 1.25 * best
    assert found.evaluations < 4**3


def test_its_qualities_and_densities_say_the_same() -> None:
    model, evaluate = _net(1), _lost(1)
    found = smallest(model, evaluate, within=0.005)
    assert prune(_net(1), lwc(quality=found.qualities)) == found.masks
    assert found.densities.keys() == found.masks.keys()
    assert set(found.densities.values()) <= set(DENSITIES)


def test_a_layer_may_be_cut_to_nothing_where_that_costs_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    found = smallest(model, lambda _: 1.0, within=0.0, scan=sensitivity(model, lambda _: 1.0, densities=[1, 0.01]))
    assert found.masks.kept == 0


def test_as_comma_separated_values(tmp_path: Path) -> None:
    found = sensitivity(_net(), _lost(), densities=[0.5, 1.0], only="4.weight")
    found.save(tmp_path / "scan.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scan.csv").read_text())))
    assert [(row["layer"], float(row["density"]), int(row["kept"])) for row in rows] == [
        ("4.weight", 1.0, 24),
        ("4.weight", 0.5, 12),
    ]
    assert float(rows[1]["error"]) == pytest.approx(found.levels["4.weight"][1].error, rel=1e-5)


def test_what_makes_no_sense_is_refused() -> None:
    model = _net()
    for densities in ([], [0.5, 0.0], [1.5]):
        with pytest.raises(SecateurError, match="densities"):
            sensitivity(model, _lost(), densities=densities)
    with pytest.raises(SecateurError, match="finite"):
        sensitivity(model, lambda _: float("nan"))
    with pytest.raises(SecateurError, match="within"):
        smallest(model, _lost(), within=-0.1)
    scan = sensitivity(model, _lost(), densities=[1.0])
    with pytest.raises(SecateurError, match="another model"):
        smallest(
            nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)),
            _lost(),
            within=1,
            scan=scan,
        )
