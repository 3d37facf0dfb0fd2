"""LeCun's recursion against autograd's Hessian where it is exact, and by hand where it is not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import UnfitModelError, gather, methods, prunable, prune
from secateur.curvature import empirical_fisher, ggn_diag, lecun_diag

DRAWN = torch.Generator().manual_seed(4)


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum()


def hessian(model: nn.Module, name: str, batch: tuple[Tensor, Tensor], loss) -> Tensor:  # type: ignore[no-untyped-def]
    p = model.get_parameter(name).detach()

    def at(value: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, {name: value}, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(at, p).reshape(p.numel(), -1).diagonal().reshape(p.shape)


def found(model: nn.Module, batch: tuple[Tensor, Tensor], loss=None, **options: bool) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    return gather(model, [batch], [lecun_diag(**options)], params=prunable(model), loss=loss)["lecun_diag"]


def test_two_layers_under_a_squared_error_are_exact_second_term_included() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batch = (torch.randn(6, 4, dtype=torch.float64, generator=DRAWN), torch.randn(6, 3, dtype=torch.float64))
    exact = found(model, batch, squared, levenberg=False)
    for name in ("0.weight", "2.weight"):
        torch.testing.assert_close(exact[name], hessian(model, name, batch, squared))
    kept = found(model, batch, squared)
    torch.testing.assert_close(kept["2.weight"], exact["2.weight"])
    slope = 1 - torch.tanh(model[0](batch[0])).square()
    back = (model[2].weight.square().sum(0) * slope.square()).T @ batch[0].square()
    torch.testing.assert_close(kept["0.weight"], back.detach())


@pytest.mark.parametrize(
    "middle",
    [
        [nn.ReLU(inplace=True)],
        [nn.MaxPool2d(2), nn.ReLU()],
        [nn.AvgPool2d(2), nn.Sigmoid()],
        [nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2)],
        [nn.GELU(), nn.Dropout()],
    ],
    ids=["relu", "max", "mean", "norm", "gelu"],
)
def test_convolutions_by_a_jacobian_of_each_layer_squared(middle: list[nn.Module]) -> None:
    """Each layer's own Jacobian, by autograd, squared: h ← (J ∘ J)ᵀ h, and ∂²L/∂w² = Σ x² h over its places."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=1, padding=1, groups=2)
    tail = nn.Sequential(*middle, nn.Flatten()).double().eval()
    width = tail(conv.double()(torch.zeros(1, 2, 4, 4, dtype=torch.float64))).shape[1]
    model = nn.Sequential(conv, *middle, nn.Flatten(), nn.Linear(width, 3)).double().eval()
    x, y = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.arange(3)
    result = found(model, (x, y))
    h = _at_logits(model(x), y)
    want = torch.zeros_like(conv.weight)
    for n in range(3):
        a = conv(x[n : n + 1])
        here = h[n] @ model[-1].weight.detach().square()
        for matrix in _matrices(middle, a.detach()):
            here = here @ matrix.square()
        taps = torch.autograd.functional.jacobian(partial(_convolved, x[n : n + 1]), conv.weight)
        assert isinstance(taps, Tensor)
        want += (taps.reshape(a.numel(), -1).square().T @ here).reshape(conv.weight.shape).detach()
    torch.testing.assert_close(result["0.weight"], want.detach())


def _at_logits(logits: Tensor, y: Tensor) -> Tensor:
    p = logits.detach().softmax(1)
    return p * (1 - p) / len(y)


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1, groups=2)


def _applied(layer: nn.Module, a: Tensor) -> Tensor:
    return layer(a.clone())  # some work in place


def _matrices(layers: list[nn.Module], a: Tensor) -> list[Tensor]:
    """The Jacobian of each layer as a matrix, the last one first."""
    found = []
    for layer in layers:
        jacobian = torch.autograd.functional.jacobian(partial(_applied, layer), a)
        assert isinstance(jacobian, Tensor)
        found.append(jacobian.reshape(-1, a.numel()))
        a = _applied(layer, a).detach()
    return found[::-1]


def test_it_is_never_negative_and_obd_takes_it() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    batch = (torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 3)
    for value in found(model, batch).values():
        assert bool((value >= 0).all())
    masks = prune(model, methods.obd(0.4, curvature=lecun_diag()), [batch])
    assert masks.kept == round(0.4 * masks.numel)
    assert lecun_diag() == lecun_diag() != lecun_diag(levenberg=False)


def test_the_last_layer_agrees_with_gauss_newton_and_no_layer_with_the_empirical_fisher() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    three = gather(model, [(x, y)], [lecun_diag(), ggn_diag(), empirical_fisher()], params=prunable(model))
    recursion, newton, fisher = (three[name]["2.weight"] for name in ("lecun_diag", "ggn_diag", "empirical_fisher"))
    torch.testing.assert_close(recursion, newton / 8)  # the mean of the loss over samples, and its sum
    assert not torch.allclose(fisher, newton, rtol=0.1)


def test_what_is_no_chain_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Odd(), nn.Linear(3, 2)))
    with pytest.raises(UnfitModelError, match=r"chains.*1\.0 is a Odd"):
        found(model, (torch.randn(2, 3), torch.tensor([0, 1])))
    uneven = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UnfitModelError, match="windows of one size"):
        found(uneven, (torch.randn(2, 1, 5, 5), torch.tensor([0, 1])))
