"""ISTA on scales: soft thresholds, exact zeros, and a cut that changes nothing about the function."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from norm_cases import batch, step
from secateur import Pruner, SecateurError, TiedScoresWarning, UnfitModelError, methods


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 3),
        ).double()  # fmt: skip


def test_scales_take_soft_thresholds() -> None:
    model, reference, rho = net(), net(), 0.3
    pruner = Pruner(model, methods.ista_bn(until=99, strength=rho))
    optimizer, twin = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, reference))
    for number in range(5):
        step(model, optimizer, number)
        step(reference, twin, number)
        with torch.no_grad():
            for norm in (reference[1], reference[4]):
                norm.weight -= norm.weight.clamp(-0.1 * rho, 0.1 * rho)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name))
    pruner.release()


def test_channels_of_scale_zero_are_cut_and_the_function_stays() -> None:
    model = net()
    pruner = Pruner(model, methods.ista_bn(until=40, strength=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(39):
        step(model, optimizer, number)
    with torch.no_grad():
        model[1].weight[2], model[4].weight[5] = 0, 0
    zeros = [(norm.weight == 0).clone() for norm in (model[1], model[4])]
    assert not all(bool(zero.all()) for zero in zeros)
    model(batch(0)[0]).sum().backward()
    uncut = copy.deepcopy(model)
    torch.optim.SGD(model.parameters(), lr=0.0).step()  # the 40th step, of rate 0: the price is 0 as well
    masks = pruner.finish()
    for name, zero in zip(("0.weight", "3.weight"), zeros, strict=True):
        assert torch.equal(masks[name].flatten(1).any(1), ~zero) and bool(zero.any())
    assert bool(masks["7.weight"].all())
    torch.testing.assert_close(model.eval()(batch(1)[0]), uncut.eval()(batch(1)[0]))


def test_one_channel_of_each_layer_stays() -> None:
    model = net()
    pruner = Pruner(model, methods.ista_bn(until=3, strength=1e3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(TiedScoresWarning):  # none is better than another
        for number in range(3):
            step(model, optimizer, number)
    assert bool((model[1].weight == 0).all()), "a proximal step makes exact zeros"
    masks = pruner.finish()
    assert [int(masks[name].flatten(1).any(1).sum()) for name in ("0.weight", "3.weight")] == [1, 1]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UnfitModelError, match="feeds a batch norm"):
        Pruner(nn.Sequential(nn.Linear(4, 3)), methods.ista_bn(until=4))
    with pytest.raises(SecateurError, match="`strength`"):
        methods.ista_bn(until=4, strength=float("nan"))
    with pytest.raises(SecateurError, match="it never would"):
        methods.ista_bn(until=0)
