"""FBS: what a boosted convolution computes, skips and counts, against the equation written out densely."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import SecateurError, UnfitModelError
from secateur.replacing import BoostedConv, boost, boosting_price, count_skipped, suppress


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.one_norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.two_norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two_norm(self.two(torch.relu(self.one_norm(self.one(x))))))


def _net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, stride=2, padding=2, dilation=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), Residual(),
            nn.Flatten(), nn.Linear(54, 4),
        ).double()  # fmt: skip
        for _ in range(3):
            net(torch.randn(16, 3, 10, 10, dtype=torch.float64) * 2 + 1)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)  # negative scales among them
                nn.init.normal_(module.bias)
    return net.eval()


def _x(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _perturbed(model: nn.Module) -> nn.Module:
    """As if trained: saliencies that look at the input."""
    drawn = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, BoostedConv):
            with torch.no_grad():
                module.saliency.weight.add_(torch.randn(module.saliency.weight.shape, generator=drawn))
                module.saliency.bias.add_(torch.randn(module.saliency.bias.shape, generator=drawn))
    return model


def _by_the_equation(layer: BoostedConv, x: Tensor) -> Tensor:
    """relu's argument, sample by sample and channel by channel, with nothing skipped."""
    convolved = layer.conv(x)
    y = torch.zeros_like(convolved)
    for n in range(len(x)):
        s = [float(channel.abs().mean()) for channel in x[n]]
        phi, rho = layer.saliency.weight.tolist(), layer.saliency.bias.tolist()
        g = [max(0.0, rho[c] + sum(w * v for w, v in zip(phi[c], s, strict=True))) for c in range(len(rho))]
        winners = sorted(range(len(g)), key=lambda c: (-g[c], c))[: int(layer.winners)]
        for c in winners:
            mean, var = layer.norm.running_mean[c], layer.norm.running_var[c]  # type: ignore[index]
            y[n, c] = g[c] * ((convolved[n, c] - mean) / torch.sqrt(var + layer.norm.eps) + layer.shift[c])
    return y


@pytest.mark.parametrize("frozen", [False, True], ids=["without gradients", "with gradients"])
def test_a_whole_boosted_model_computes_what_it_did(frozen: bool) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    boosted = boost(net)
    with torch.set_grad_enabled(frozen):
        assert torch.allclose(boosted(_x()), net(_x()), atol=1e-10)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model that was given must stay"


def test_a_dead_scale_begins_as_the_constant_that_it_was() -> None:
    net = _net(2)
    with torch.no_grad():
        net[1].weight[2] = 0  # type: ignore[index,union-attr]
    with torch.no_grad():
        assert torch.allclose(boost(net)(_x()), net(_x()), atol=1e-10)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.3, 0.01])
def test_what_is_skipped_is_exact(density: float) -> None:
    boosted = _perturbed(boost(_net(), density=density))
    layers = [module for module in boosted.modules() if isinstance(module, BoostedConv)]
    seen: list[tuple[BoostedConv, Tensor, Tensor]] = []
    handles = [m.register_forward_hook(lambda m, a, y: seen.append((m, a[0], y))) for m in layers]
    with torch.no_grad():
        skipping = boosted(_x())
    dense = boosted(_x())
    for handle in handles:
        handle.remove()
    assert torch.allclose(skipping, dense, atol=1e-10) and len(seen) == 2 * len(layers) == 8
    for layer, x, y in seen:
        with torch.no_grad():
            assert torch.allclose(y, _by_the_equation(layer, x), atol=1e-10)
        assert int(y.flatten(2).any(2).sum(1).max()) <= math.ceil(density * len(layer.shift))
    assert int(layers[0].winners) == max(1, math.ceil(density * 8))


def test_winners_differ_from_input_to_input_and_a_batch_is_its_samples() -> None:
    boosted = _perturbed(boost(_net(), density=0.3))
    x = _x(6) * torch.linspace(0.1, 4, 6, dtype=torch.float64).reshape(6, 1, 1, 1)
    with torch.no_grad():
        first = boosted[0](x).flatten(2).any(2)  # type: ignore[index]
        assert len(first.unique(dim=0)) > 1
        assert torch.allclose(boosted(x), torch.cat([boosted(one[None]) for one in x]), atol=1e-12)
        assert boosted[0](x[:0]).shape[:2] == (0, 8)  # type: ignore[index]


def test_multiplications_are_counted_one_by_one() -> None:
    boosted = _perturbed(boost(_net(), density=0.4)).train()
    mode = [module.training for module in boosted.modules()]
    found = count_skipped(boosted, _x(2))
    assert [module.training for module in boosted.modules()] == mode
    done: dict[str, int] = {}
    dense: dict[str, int] = {}
    for name, module in boosted.named_modules():
        if isinstance(module, BoostedConv):
            original = module.conv._conv_forward

            def watched(x: Tensor, weight: Tensor, bias: None, name=name, module=module, original=original) -> Tensor:
                y = original(x, weight, bias)
                places = y[0, 0].numel()
                done[name] = done.get(name, 0) + places * weight.numel() + module.saliency.weight.numel()
                dense[name] = dense.get(name, 0) + places * module.conv.weight.numel()
                return y

            module.conv._conv_forward = watched  # type: ignore[method-assign]
    with torch.no_grad():
        boosted.eval()(_x(2))
    assert {name: each.done for name, each in found.layers.items()} == done
    assert {name: each.dense for name, each in found.layers.items()} == dense
    expected_done, expected_dense = sum(done.values()), sum(dense.values())
    assert done["0"] < 0.6 * dense["0"]
    assert found.fraction == pytest.approx(1 - expected_done / expected_dense) and "nothing less is stored" in str(
        found
    )


def test_all_channels_suppressed_gives_zeros() -> None:
    boosted = boost(_net(), density=0.5)
    layer = boosted[0]  # type: ignore[index]
    assert isinstance(layer, BoostedConv)
    with torch.no_grad():
        layer.saliency.bias.fill_(-1)
        assert not bool(layer(_x()).any())
        assert torch.allclose(boosted(_x()), boosted(_x() * 2))
    assert count_skipped(boosted, _x(1)).layers["0"].done <= 100 * 9 * 3 + 3 * 8  # one filter, whose output is dropped


def test_training_reaches_everything_and_the_price_is_the_sum_of_gates() -> None:
    boosted = _perturbed(boost(_net(), density=0.5)).train()
    layers = [module for module in boosted.modules() if isinstance(module, BoostedConv)]
    with pytest.raises(SecateurError, match="last forward in training"):
        boosting_price(boosted)
    gates: list[Tensor] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda m, a: gates.append(m.gates(a[0])[0].sum()))
    loss = F.cross_entropy(boosted(_x(8)), torch.arange(8) % 4) + boosting_price(boosted, 1e-3)
    assert float(boosting_price(boosted, 2.0).detach()) == pytest.approx(2 * sum(float(g.detach()) for g in gates))
    loss.backward()
    for layer in layers:
        for parameter in (layer.conv.weight, layer.shift, layer.saliency.weight, layer.saliency.bias):
            assert parameter.grad is not None and bool(parameter.grad.any())
    copy.deepcopy(boosted)  # what the price remembers must not stand in the way of copies


def test_the_number_of_winners_is_in_the_state() -> None:
    boosted = _perturbed(boost(_net(), density=1.0))
    suppress(boosted, 0.25)
    again = boost(_net(5))
    again.load_state_dict(boosted.state_dict())
    with torch.no_grad():
        assert torch.equal(again(_x()), boosted(_x()))
    assert int(again[0].winners) == 2  # type: ignore[index,arg-type]


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnfitModelError, match="batch norm"):
        boost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(UnfitModelError, match="batch norm"):
        boost(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)))
    with pytest.raises(SecateurError, match="density"):
        boost(_net(), density=0.0)
    with pytest.raises(SecateurError, match="no boosted layers"):
        suppress(_net(), 0.5)
    with pytest.raises(SecateurError, match="no boosted layers"):
        count_skipped(_net(), _x())
    with pytest.raises(SecateurError, match="density"):
        suppress(boost(_net()), 1.5)
