"""Means and variances of outputs as they were before the cut."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur import Masks, SecateurError, methods, shrink
from secateur.repairs import matched_moments, reconstruct


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)
    )


def test_every_layer_has_the_moments_it_had_on_one_batch() -> None:
    """Of each output that stays, mean and variance are those of the dense network; what is gone stays gone."""
    net, x = _net(), torch.randn(20, 3, 8, 8) + 1
    reads = torch.arange(8).reshape(1, 8, 1, 1).expand(6, 8, 1, 1) % 2 == 0
    masks = Masks({"2.weight": reads, "5.weight": torch.arange(4).reshape(4, 1).expand(4, 54) > 0})
    dense = copy.deepcopy(net)
    reconstruct(net, masks, matched_moments(), [x])
    with torch.no_grad():
        for one, other in ((net[:3](x), dense[:3](x)),):
            torch.testing.assert_close(one.mean((0, 2, 3)), other.mean((0, 2, 3)))
            torch.testing.assert_close(one.var((0, 2, 3)), other.var((0, 2, 3)))
        torch.testing.assert_close(net(x).mean(0)[1:], dense(x).mean(0)[1:])
        torch.testing.assert_close(net(x).var(0)[1:], dense(x).var(0)[1:])
        assert torch.equal(net[5].bias[0], dense[5].bias[0])
    assert torch.equal(net[0].weight, dense[0].weight)  # no mask speaks of it
    assert bool((net[2].weight[~masks["2.weight"]] == 0).all())


def test_a_linear_layer_by_hand() -> None:
    """y = 3 x₁ + 5 x₂ + 1 without x₂: 3 x₁ is scaled to the variance of both, and its mean moved there."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 5.0]]))
        layer.bias.fill_(1.0)
    x = torch.tensor([[1.0, 2.0], [0.0, 4.0], [1.0, 6.0], [4.0, 8.0]])
    y, left = 3 * x[:, 0] + 5 * x[:, 1] + 1, 3 * x[:, 0]
    scale = float((y.var() / left.var()).sqrt())
    reconstruct(layer, Masks({"weight": torch.tensor([[True, False]])}), matched_moments(), [x])
    assert layer.weight.tolist() == [[pytest.approx(3 * scale), 0.0]]
    assert layer.bias.item() == pytest.approx(float(y.mean()) - scale * float(left.mean()))


def test_a_constant_keeps_its_scale_and_has_the_mean() -> None:
    layer = nn.Linear(2, 1)
    x = torch.tensor([[1.0, 2.0], [1.0, 5.0]])
    with torch.no_grad():
        mean, first = float(layer(x).mean()), layer.weight[0, 0].item()
    reconstruct(layer, Masks({"weight": torch.tensor([[True, False]])}), matched_moments(), [x])
    with torch.no_grad():
        assert float(layer(x).mean()) == pytest.approx(mean, rel=1e-5)
    assert layer.weight[0, 0].item() == first


def test_without_batches_or_biases() -> None:
    net = nn.Linear(2, 2, bias=False)
    masks = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    reconstruct(net, masks, matched_moments(), [torch.randn(3, 2)])
    with pytest.raises(SecateurError, match="batches"):
        reconstruct(_net(), Masks({"5.weight": torch.ones(4, 54, dtype=torch.bool)}), matched_moments())


def test_a_method_given_to_shrink_repairs_what_stays() -> None:
    """The means of the smaller model's outputs are the dense ones; without the repair they are not."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    nn.init.normal_(net[2].bias)
    x = torch.randn(16, 3, 8, 8)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        wanted = net.eval()(x).mean(0)
    plain = methods.l1_filters(0.5)
    up = replace(plain, repair=matched_moments())
    found = [shrink(net, method, x[:2], batches=[x], modes=("eval",)) for method in (plain, up)]
    with torch.no_grad():
        apart = [(each.model.eval()(x).mean(0) - wanted).abs().max() for each in found]
    assert apart[1] < 1e-5 < 1e-2 < apart[0]
    assert [each.model[3].out_channels for each in found] == [4, 4]
    assert found[0].manifest.kept == found[1].manifest.kept
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(SecateurError, match="l1_filters repairs what stays, and an optimizer goes on"):
        shrink(net, up, x[:2], batches=[x], optimizer=optimizer)
