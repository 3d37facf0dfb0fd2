"""LWC against its definition: what is small against the spread of its layer goes, and what is gone stays gone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from online_cases import mlp, sgd
from online_cases import step as train
from secateur import Masks, Pruner, methods, prune, schedule
from secateur._base.errors import EmptyLayerWarning, SecateurError


def _normal(*sizes: int) -> nn.Sequential:
    """Bias-free layers, each drawn with a deviation of its own."""
    layers = [nn.Linear(n, m, bias=False) for n, m in itertools.pairwise(sizes)]
    for scale, layer in enumerate(layers, 1):
        nn.init.normal_(layer.weight, std=0.1 * scale)
    return nn.Sequential(*layers)


def _sigma(values: Tensor, alive: Tensor) -> float:
    kept = values[alive].double()
    return math.sqrt(float((kept * kept).sum()) / len(kept))


@pytest.mark.parametrize("quality", [0.3, 1.0, 2.0])
def test_of_normal_weights_erf_of_q_over_root_two_go(quality: float) -> None:
    masks = prune(_normal(300, 200, 100), methods.lwc(quality=quality))
    gone = math.erf(quality / math.sqrt(2))
    for mask in masks.values():
        error = math.sqrt(gone * (1 - gone) / mask.numel())
        # σ is estimated from the same weights: that adds at most as much again (density at the cut × q/√2n).
        assert abs(1 - float(mask.double().mean()) - gone) < 4 * 2 * error


def test_each_layer_is_cut_at_its_own_quality() -> None:
    model = _normal(30, 20, 20, 10)
    masks = prune(model, methods.lwc(quality={"0.weight": 0.5, "[02].*": 1.5}))
    for name, quality in (("0.weight", 0.5), ("2.weight", 1.5)):
        weight = _normal_copy(model, name)
        assert torch.equal(masks[name], weight.abs() >= quality * weight.double().square().mean().sqrt())
    assert bool(masks["1.weight"].all())  # not named: stays whole


def _normal_copy(model: nn.Module, name: str) -> Tensor:
    torch.manual_seed(0)  # every test starts from this seed, and the model was the first to draw
    return _normal(30, 20, 20, 10).get_parameter(name).detach()


def test_the_cut_is_at_the_threshold_itself_and_zero_quality_keeps_all() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 7.0, -7.0]]))  # σ = 5
    assert prune(model, methods.lwc(quality=1.4))["weight"].tolist() == [[False, False, True, True]]
    assert prune(mlp(), methods.lwc(quality=0.0)).density == 1


def test_rounds_are_nested_and_measure_what_is_left() -> None:
    model, masks = mlp(), None
    optimizer = sgd(model)
    for round_ in range(4):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        alive = {n: torch.ones_like(p, dtype=torch.bool) for n, p in before.items()} | dict(masks or {})
        again = prune(model, methods.lwc(quality=0.6), masks=masks)
        for name, mask in again.items():
            cut = 0.6 * _sigma(before[name], alive[name])
            assert torch.equal(mask, alive[name] & (before[name].abs() >= cut)), f"{name} in round {round_}"
        masks = again
        for t in range(3):  # retraining moves what was cut as well, if nobody holds it
            train(model, optimizer, t)


def test_the_support_never_grows_in_training() -> None:
    model = mlp()
    pruner = Pruner(model, methods.lwc(quality=0.5, schedule=schedule.steady(None, every=3, until=13)))
    optimizer, history = sgd(model), [pruner.masks]
    for t in range(1, 16):
        train(model, optimizer, t)
        history.append(pruner.masks)
    assert all(later & earlier == later for earlier, later in itertools.pairwise(history))
    assert history[12].kept < history[0].kept and history[15] == history[12]


def test_a_layer_that_is_all_cut_stays_so_and_is_named() -> None:
    model = _normal(8, 6, 4)
    with pytest.warns(EmptyLayerWarning, match=r"0\.weight"):
        masks = prune(model, methods.lwc(quality={"0.*": 99.0, "1.*": 0.5}))
    with pytest.warns(EmptyLayerWarning, match=r"0\.weight"):
        again = prune(model, methods.lwc(quality=0.5), masks=masks)
    assert not bool(again["0.weight"].any()) and bool(again["1.weight"].any())


def test_a_quality_for_no_layer_is_refused() -> None:
    with pytest.raises(SecateurError, match=r"'fc\*' is not a prunable tensor"):
        prune(mlp(), methods.lwc(quality={"fc*": 1.0}))


def test_masks_of_another_model_are_refused() -> None:
    with pytest.raises(SecateurError, match="7"):
        prune(mlp(), methods.lwc(), masks=Masks({"7.weight": torch.ones(3, 20, dtype=torch.bool)}))
