"""Methods on curvature and on inputs, for layers that store their weight as [in, out] (GPT-2's Conv1D)."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from secateur import Masks, methods, prune, structure
from secateur.axes import Method
from transformer_cases import Conv1D

X = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 4


def both() -> tuple[nn.Sequential, nn.Sequential]:
    """The same network twice: of linear layers, and of layers that store the transpose."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        turned = nn.Sequential(Conv1D(8, 6), nn.Tanh(), Conv1D(4, 8)).double()
    with torch.no_grad():
        for k in (0, 2):
            turned[k].weight.copy_(plain[k].weight.T)  # type: ignore[operator]
            turned[k].bias.copy_(plain[k].bias)  # type: ignore[operator]
    return plain, turned


def masks_of(model: nn.Module, method: Method) -> Masks:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a layer of so small a network may be emptied
        return prune(model, method, [(X, Y)], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "method",
    [
        methods.taylor(0.5),
        methods.taylor_weights(0.5),
        methods.taylor_weights(0.5, gates=True),
        methods.group_fisher(0.5),
        methods.skeletonization(0.5),
        methods.l1_filters(0.5, greedy=True),
        methods.mlprune(0.5),
        methods.c_obs(0.5),
        methods.kron_obs(0.5),
        methods.chita(0.5),
        methods.wood_fisher(0.5, block=1),
        methods.inbound(0.5),
        methods.thinet(0.5),
        methods.channel_lasso(0.5),
        methods.osscar(0.5),
        methods.reduce_and_reuse(0.5),
    ],
    ids=lambda method: method.name,
)
def test_masks_and_repaired_weights_are_the_transpose(method: Method) -> None:
    plain, turned = both()
    one, other = masks_of(plain, method), masks_of(turned, method)
    for k in (0, 2):
        assert torch.equal(one[f"{k}.weight"], other[f"{k}.weight"].T)
        torch.testing.assert_close(turned[k].weight.detach().T, plain[k].weight.detach(), rtol=1e-6, atol=1e-8)


def test_random_units_are_whole_however_they_are_stored() -> None:
    _, turned = both()
    masks = masks_of(turned, methods.random(0.5, structure=structure.filters()))
    assert all(bool((masks[name].all(0) == masks[name].any(0)).all()) for name in masks)
