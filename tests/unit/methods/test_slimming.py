"""Slimming: L1 on scales, one global ranking over them, what is cut and what is left of a channel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from norm_cases import batch, step
from secateur import Pruner, SecateurError, UnfitModelError, methods


def net() -> nn.Sequential:
    """Two normalised convolutions, a normalised linear layer, and a head without a norm, on 1 × 8 × 8 images."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(128, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3),
        ).double()  # fmt: skip
        for norm in (model[1], model[4], model[8]):
            nn.init.uniform_(norm.weight, 0.2, 1.0)
            nn.init.normal_(norm.bias)
        return model


def test_scales_pay_and_nothing_else_does() -> None:
    model, reference, s = net(), net(), 0.05
    pruner = Pruner(model, methods.slimming(0.5, until=9, strength=s))
    optimizer, twin = (torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (model, reference))
    for number in range(5):
        step(model, optimizer, number)
        twin.zero_grad()
        F.cross_entropy(reference(batch(number)[0]), batch(number)[1]).backward()
        for norm in (reference[1], reference[4], reference[8]):
            norm.weight.grad += s * norm.weight.detach().sign()
        twin.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name))
    pruner.release()


def test_the_smallest_scales_of_the_network_take_their_filters_along() -> None:
    model = net()
    pruner = Pruner(model, methods.slimming(0.5, until=1))
    scales: list[Tensor] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer.register_step_post_hook(
        lambda *_: scales.extend(norm.weight.detach().abs().clone() for norm in (model[1], model[4], model[8]))
    )
    step(model, optimizer, 0)
    threshold = torch.cat(scales).sort(descending=True).values[math.floor(0.5 * 24 + 0.5) - 1]
    masks = pruner.finish()
    for name, scale in zip(("0.weight", "3.weight", "7.weight"), scales, strict=True):
        assert torch.equal(masks[name].flatten(1).all(1), scale >= threshold)
        assert torch.equal(masks[name].flatten(1).any(1), scale >= threshold)
    assert bool(masks["10.weight"].all()), "a layer without a norm stays whole, and does not count"


def test_a_cut_channel_is_the_constant_beta() -> None:
    model = net()
    pruner = Pruner(model, methods.slimming(0.5, until=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step(model, optimizer, 0)
    gone = ~pruner.masks["3.weight"].flatten(1).any(1)
    assert bool(gone.any())
    channels = model[:5](batch(1)[0])[:, gone]
    torch.testing.assert_close(channels, model[4].bias[gone][:, None, None].expand_as(channels))
    pruner.finish()


def test_no_layer_is_emptied() -> None:
    model = net()
    with torch.no_grad():
        model[4].weight.mul_(1e-6)
    pruner = Pruner(model, methods.slimming(0.3, until=1, strength=0.0))
    step(model, torch.optim.SGD(model.parameters(), lr=0.0), 0)
    masks = pruner.finish()
    assert int(masks["3.weight"].flatten(1).any(1).sum()) == 1
    assert sum(int(masks[n].flatten(1).any(1).sum()) for n in ("0.weight", "3.weight", "7.weight")) == 7


def test_a_network_without_norms_is_refused_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    keys = list(model.state_dict())
    with pytest.raises(UnfitModelError, match=r"feeds a batch norm.*Take l1_penalty or ssl"):
        Pruner(model, methods.slimming(0.5, until=4))
    assert list(model.state_dict()) == keys and not model[0]._forward_hooks
    with pytest.raises(SecateurError, match="`strength`"):
        methods.slimming(0.5, until=4, strength=-1)
