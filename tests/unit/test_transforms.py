"""The sanity checks do what they say (two published code bases had a shuffle that did nothing)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import Masks, methods, prune, reinit, shuffle
from secateur._base.errors import MaskError, SecateurError


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))


def test_shuffle_keeps_counts_and_moves_positions(model: nn.Module) -> None:
    masks = prune(model, methods.magnitude(0.2))
    moved = shuffle(masks, generator=torch.Generator().manual_seed(1))
    assert [layer.kept for layer in moved.layers()] == [layer.kept for layer in masks.layers()]
    assert all(not torch.equal(moved[name], masks[name]) for name in masks)
    assert moved == shuffle(masks, generator=torch.Generator().manual_seed(1))
    assert moved != shuffle(masks, generator=torch.Generator().manual_seed(2))


def test_shuffle_does_not_touch_the_global_state(model: nn.Module) -> None:
    masks, state = prune(model, methods.magnitude(0.2)), torch.get_rng_state()
    shuffle(masks)
    assert torch.equal(state, torch.get_rng_state())


def test_reinit_keeps_the_mask_and_changes_every_survivor(model: nn.Module) -> None:
    masks = prune(model, methods.magnitude(0.2))
    before = {name: model.get_parameter(name).detach().clone() for name in masks}
    reinit(model, masks, generator=torch.Generator().manual_seed(1))
    for name, mask in masks.items():
        now = model.get_parameter(name).detach()
        assert (now[~mask] == 0).all() and not torch.isin(now[mask], before[name][mask]).any()


def test_reinit_draws_from_the_layers_own_distribution(model: nn.Module) -> None:
    whole = Masks({"0.weight": torch.ones(20, 30, dtype=torch.bool)})
    nn.init.constant_(model[0].weight, 9.0)
    reinit(model, whole, generator=torch.Generator().manual_seed(1))
    bound = 30**-0.5  # nn.Linear: U(−1/√fan_in, 1/√fan_in)
    assert model[0].weight.abs().max() <= bound and abs(float(model[0].weight.detach().std()) - bound / 3**0.5) < 0.01


def test_reinit_with_a_function_of_ones_own(model: nn.Module) -> None:
    masks = prune(model, methods.magnitude(0.2))

    def sevens(network: nn.Module, generator: torch.Generator) -> None:
        for parameter in network.parameters():
            nn.init.constant_(parameter, 7.0)

    reinit(model, masks, initialise=sevens)
    assert sum(int((model.get_parameter(name) == 7).sum()) for name in masks) == masks.kept


def test_reinit_refuses_masks_of_another_model(model: nn.Module) -> None:
    with pytest.raises(MaskError, match=r"9\.weight"):
        reinit(model, Masks({"9.weight": torch.ones(2, 2, dtype=torch.bool)}))


def test_reinit_needs_a_layer_that_can_reset() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 2))

    with pytest.raises(SecateurError, match="Bare has no reset_parameters"):
        reinit(Bare(), Masks({"w": torch.eye(2, dtype=torch.bool)}))
