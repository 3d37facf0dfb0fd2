"""Means of outputs as they were before the cut."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur import Masks, SecateurError, methods, shrink
from secateur.repairs import corrected_biases, reconstruct, reestimate_norms, then


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)
    )


def test_every_layer_has_the_means_it_had_on_one_batch() -> None:
    """Layer by layer, the mean of each output that stays is that of the dense network; what is gone stays gone."""
    net, x = _net(), torch.randn(20, 3, 8, 8) + 1
    masks = Masks(
        {
            "2.weight": torch.arange(8).reshape(1, 8, 1, 1).expand(6, 8, 1, 1) % 2 == 0,
            "5.weight": torch.arange(4).reshape(4, 1).expand(4, 54) > 0,
        }
    )
    dense = copy.deepcopy(net)
    reconstruct(net, masks, corrected_biases(), [x])
    with torch.no_grad():
        torch.testing.assert_close(net[:3](x).mean((0, 2, 3)), dense[:3](x).mean((0, 2, 3)))
        torch.testing.assert_close(net(x).mean(0)[1:], dense(x).mean(0)[1:])
        assert torch.equal(net[5].bias[0], dense[5].bias[0])
    assert torch.equal(net[0].bias, dense[0].bias)
    assert all(torch.equal(a * m, b) for a, b, m in ((dense[2].weight, net[2].weight, masks["2.weight"]),))


def test_a_linear_layer_by_hand() -> None:
    """y = w x + b without the second input: b + w₂ E[x₂]."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 5.0]]))
        layer.bias.fill_(1.0)
    batches = [torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[1.0, 6.0], [1.0, 8.0]])]
    reconstruct(layer, Masks({"weight": torch.tensor([[True, False]])}), corrected_biases(), batches)
    assert layer.bias.item() == pytest.approx(1 + 5 * 5)


def test_without_batches_or_biases() -> None:
    net = nn.Linear(2, 2, bias=False)
    masks = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    reconstruct(net, masks, corrected_biases(), [torch.randn(3, 2)])
    with pytest.raises(SecateurError, match="batches"):
        reconstruct(_net(), Masks({"5.weight": torch.ones(4, 54, dtype=torch.bool)}), corrected_biases())


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
    both = replace(plain, repair=then(reestimate_norms(), corrected_biases()))
    found = [shrink(net, method, x[:2], batches=[x], modes=("eval",)) for method in (plain, both)]
    with torch.no_grad():
        apart = [(each.model.eval()(x).mean(0) - wanted).abs().max() for each in found]
    assert apart[1] < 1e-5 < 1e-2 < apart[0]
    assert [each.model[3].out_channels for each in found] == [4, 4]
    assert found[0].manifest.kept == found[1].manifest.kept
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(SecateurError, match="l1_filters repairs what stays, and an optimizer goes on"):
        shrink(net, both, x[:2], batches=[x], optimizer=optimizer)
