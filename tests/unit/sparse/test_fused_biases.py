"""Chains whose biases are pruned too, as SNIP's own protocol does: compiled, and equal to the eager masked loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur import Masks, hold, methods, prune
from secateur._base import door
from secateur.axes.structure import weights
from secateur.sparse import compile_step, why_no_fused_step

pytestmark = pytest.mark.skipif(door.native is None, reason=f"needs the kernels: {door.why_not}")


def _model(bias: float) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.bias, bias)
    return model


@pytest.mark.parametrize("bias", [0.0, 0.3], ids=["all biases pruned", "some biases pruned"])
def test_pruned_biases_train_like_the_eager_loop(bias: float) -> None:
    model = _model(bias)
    x, y = torch.randn(25, 5, 6), torch.arange(25) % 4
    plan = methods.snip(0.3, structure=weights(biases=True))
    masks: Masks = prune(model, plan, [(x, y)], generator=torch.Generator().manual_seed(0))
    assert any(mask.dim() == 1 and not mask.all() for mask in masks.values())
    eager = copy.deepcopy(model)
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    assert why_no_fused_step(model, masks, cross_entropy, optimizer) is None
    step = compile_step(model, masks, cross_entropy, optimizer)
    hold(eager, masks)
    theirs = torch.optim.SGD(eager.parameters(), **options)
    for _ in range(100):
        step(x, y)
        theirs.zero_grad()
        cross_entropy(eager(x), y).backward()
        theirs.step()
    step.write_back()
    for (name, found), expected in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
