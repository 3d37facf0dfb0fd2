"""The smaller model computes what the full one with zeros does: on every kind of net, by the test's own comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import attention_nets
import coupling_nets
from secateur import shrink

CASES = {**coupling_nets.CASES, **attention_nets.CASES}
# What stays of each at half of the units: fewer may stay when rules become better, never more.
SHARES = {
    "residual": 0.278,
    "dense_concat": 0.313,
    "grouped": 0.222,
    "squeeze_excite": 0.439,
    "unet": 0.274,
    "shuffled": 0.415,
    "pixels": 0.303,
    "lstm": 0.282,
    "gru": 0.285,
    "projected": 0.295,
    "packed": 0.309,
    "cells": 0.524,
    "experts": 0.317,
    "tricks": 0.440,
    "gpt": 0.496,
    "gpt_by_shape": 0.722,
    "llama": 0.276,
    "llama_native_norm": 0.276,
    "windows": 0.822,
    "sums": 0.317,
    "encoder": 0.492,
}


def live(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The net in float64, with statistics of batch norm that are not those of a fresh one."""
    model, inputs = CASES[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.bias.data, -0.5)):
                tensor.copy_(torch.rand(tensor.shape) + low)  # pyright: ignore[reportOptionalMemberAccess]
    model.double().eval()
    return model, tuple(each.double() if each.is_floating_point() else each for each in inputs)


def flat(output: Any) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree_leaves(output)])


@pytest.mark.parametrize("name", CASES)
def test_half_of_the_units_go_and_nothing_else_changes(name: str) -> None:
    model, inputs = live(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    small, certificate, manifest = shrink(model, 0.5, inputs, draws=0)

    # The same numbers put back into the full net, with zeros where something went.
    whole = manifest.undo(small, model)
    generator = torch.Generator().manual_seed(7)
    others = [torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x.flip(-1) for x in inputs]
    with torch.no_grad():
        for given in (inputs, others):
            torch.testing.assert_close(flat(small(*given)), flat(whole(*given)), rtol=1e-10, atol=1e-12)
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert share <= SHARES[name] and certificate.after.params / certificate.before.params == pytest.approx(share)
    # What stayed is what was there, but for the scaled norms.
    kept = {key: value for key, value in small.state_dict().items() if key not in manifest.rescaled}
    for key, value in kept.items():
        want = before[key]
        for dim, index in manifest.kept.get(key, {}).items():
            want = want.index_select(dim, torch.tensor(index))
        assert torch.equal(value, want), key
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["residual", "lstm", "llama", "tricks"])
def test_certificate_has_what_was_compared(name: str) -> None:
    model, inputs = live(name)

    found = shrink(model, 0.5, inputs).certificate

    assert [(each.mode, each.inputs) for each in found.comparisons] == [
        (mode, which) for mode in ("eval", "train") for which in ("example", "random 1")
    ]
    assert all(each.dtype == torch.float64 and each.outputs <= 1e-10 for each in found.comparisons)
    assert all(each.gradients is not None and each.gradients <= 1e-10 for each in found.comparisons)
    assert str(found).startswith(f"{found.before.params:,} -> {found.after.params:,} parameters")
