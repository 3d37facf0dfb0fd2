"""A held model stays held; what may change the function is cut on request only, and measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

import attention_nets
from coupling_nets import residual
from secateur import Masks, SecateurError, held, hold, methods, prune, shrink


def half_dead() -> tuple[nn.Module, tuple[torch.Tensor, ...], Masks]:
    net, x = residual()
    masks = prune(net, methods.magnitude(density=0.6))
    rows = masks["1.one.weight"].clone()
    rows[[1, 5]] = False
    return net, x, Masks({**masks, "1.one.weight": rows})


def test_the_smaller_model_is_held_and_the_full_one_stays_so() -> None:
    net, x, masks = half_dead()
    hold(net, masks)

    found = shrink(net, masks, x, draws=0, modes=("eval",))

    (mine,) = held(found.model)
    assert found.model.get_parameter("1.one.weight").shape[0] == 6
    mine.check()
    (theirs,) = held(net)
    assert theirs.masks == masks and theirs.active


def test_in_place_it_trains_on_within_its_masks() -> None:
    net, x, masks = half_dead()
    hold(net, masks)
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(*x).sum().backward()
    optimizer.step()

    small = shrink(net, masks, x, optimizer=optimizer, draws=0, modes=("eval",)).model
    (mine,) = held(small)
    for _ in range(2):
        optimizer.zero_grad()
        small(*x).square().sum().backward()
        optimizer.step()

    assert small is net and small.get_parameter("1.one.weight").shape[0] == 6
    mine.check()
    assert float(mine.masks.density) < 0.7


def test_layer_norm_goes_on_request_and_the_change_is_measured() -> None:
    net, inputs = attention_nets.CASES["windows"]()
    exact = shrink(net, 0.5, inputs, draws=0, modes=("eval",)).certificate
    rough = shrink(net, 0.5, inputs, draws=0, modes=("eval",), inexact=("layer_norm",)).certificate

    assert exact.inexact == () and exact.worst < 1e-10
    assert rough.inexact == ("layer_norm",) and rough.worst > 1e-3
    assert rough.after.params < 0.7 * exact.after.params
    assert "changed by layer_norm" in str(rough)


def test_an_unknown_concession_is_refused() -> None:
    with pytest.raises(SecateurError, match="Did you mean 'layer_norm'"):
        shrink(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 0.5, torch.zeros(1, 3), inexact=("layernorm",))
