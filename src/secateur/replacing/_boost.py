"""Feature boosting and suppression: each input says which channels are computed for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.costing import call_of
from secateur.masks import Only, prunable, unwrap
from secateur.measures import normalised, preserved
from secateur.replacing._boosted import BoostedConv, Tally, price_of
from secateur.replacing._clustered import convolutions
from secateur.selection import check_density


def boost(model: nn.Module, *, density: float = 1.0, only: Only = None) -> nn.Module:
    """Copy a model, and let each convolution with a batch norm choose its channels anew for every input.

    y = relu(π(x) ⊙ (BN(conv(x)) + β)): π keeps the ⌈dC⌉ largest of relu(φ·s(x) + ρ), s(x) the mean magnitude of each
    input channel. The copy begins as the model itself: at d = 1 it computes the same (φ = 0, ρ = |γ|). Train it, lower
    d step by step (`suppress`), and add `boosting_price` to the loss, as the authors do. In eval mode without gradients
    suppressed channels are really skipped. **Nothing is removed from storage**: every filter may be asked for by some
    input, so the copy is as large as the model, plus φ and ρ.

    Args:
        model: stays as it is.
        density: d, the fraction of each layer's channels that is computed for an input.
        only: which weights, see `prunable`; of those, ungrouped convolutions whose output goes into a batch norm and
            nowhere else.

    Raises:
        UnfitModelError: no such convolution.

    Source: Gao, Zhao, Dudziak, Mullins & Xu, "Dynamic channel pruning: feature boosting and suppression",
    arXiv 1810.05331, eqs. 4 to 8.
    Deviates: begins with φ = 0 and ρ = |γ|, so that nothing is lost at d = 1, where the paper begins with random φ and
    ρ = 1. Exactly ⌈dC⌉ win, for each sample by itself; the authors' code keeps what is above the (k + 1)-th, and in
    batches compares with moving averages.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> half = boost(net, density=0.5)
    >>> with torch.no_grad():
    ...     print(int(half(torch.rand(1, 3, 6, 6)).flatten(2).any(2).sum()) <= 4)
    True
    """
    require_model(model, "boost(model, density=0.5)")
    refuse_sparsified(model, "Boosting")
    check_density(density)
    network = copy.deepcopy(unwrap(model))
    pairs = _pairs(network, only)
    for path, (layer, norm_path) in pairs.items():
        norm = network.get_submodule(norm_path)
        assert isinstance(norm, _BatchNorm)
        bare = copy.deepcopy(norm)
        bare.affine, bare.weight, bare.bias = False, None, None  # type: ignore[assignment]
        boosted = BoostedConv(layer, bare).train(layer.training)
        boosted.begin(norm.weight.detach(), norm.bias.detach())
        network.set_submodule(path, boosted)
        network.set_submodule(norm_path, nn.Identity())
    suppress(network, density)
    return network


def suppress(model: nn.Module, density: float) -> None:
    """Let ⌈dC⌉ of every boosted layer's channels win from now on, in place; the number is in the `state_dict`."""
    check_density(density)
    for layer in _boosted(model):
        layer.winners.fill_(math.ceil(density * len(layer.shift) - 1e-9))


def boosting_price(model: nn.Module, strength: float = 1e-8) -> Tensor:
    """λ Σ ‖g(x)‖₁ over the boosted layers' last forward in training, with its graph: add it to the loss.

    Raises:
        SecateurError: a layer that has not run in training since.
    """
    total = None
    for layer in _boosted(model):
        price = price_of(layer)
        if price is None:
            raise SecateurError("`boosting_price` is of the last forward in training mode, and there was none yet.")
        total = price if total is None else total + price
    assert total is not None
    return strength * total


@dataclass(frozen=True)
class Skipped:
    """What a forward of a boosted model multiplied.

    Attributes:
        layers: of each boosted layer, multiplications of a dense one (`dense`) and those done (`done`), which include
            the choice itself (φ·s).
    """

    layers: dict[str, Tally]

    @property
    def fraction(self) -> float:
        """How much of the multiplications was skipped, over all boosted layers."""
        return 1 - sum(each.done for each in self.layers.values()) / sum(each.dense for each in self.layers.values())

    def __str__(self) -> str:
        dense, done = (sum(getattr(each, what) for each in self.layers.values()) for what in ("dense", "done"))
        return f"{done:,} of {dense:,} multiplications done, {self.fraction:.1%} skipped; nothing less is stored"


@torch.no_grad()
def count_skipped(model: nn.Module, example_inputs: Any) -> Skipped:
    """Run a boosted model on these inputs, in eval mode, and count what was multiplied; it stays as it was.

    Suppressed channels cost nothing, neither where they would be computed nor where they would be read.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BoostedConv)}
    list(_boosted(model))
    call = call_of(example_inputs)
    try:
        for layer in layers.values():
            layer.tally = Tally()
        with preserved(model, {}, train=False):
            model(*call.inputs, **call.kwargs)
        return Skipped({name: layer.tally for name, layer in layers.items() if layer.tally is not None})
    finally:
        for layer in layers.values():
            layer.tally = None


def _boosted(model: nn.Module) -> Iterator[BoostedConv]:
    found = [module for module in model.modules() if isinstance(module, BoostedConv)]
    if not found:
        raise SecateurError("the model has no boosted layers: make them by boost(model).")
    yield from found


def _pairs(network: nn.Module, only: Only) -> dict[str, tuple[Any, str]]:
    """Each convolution, by path, with the path of its batch norm."""
    names = prunable(network, only)
    scales = normalised(network, names)
    norms = {
        id(module.weight): path
        for path, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.affine and module.track_running_stats
    }
    found = {
        path: (layer, norms[id(scales[f"{path}.weight"])])
        for path, layer in convolutions(network, list(names)).items()
        if f"{path}.weight" in scales and id(scales[f"{path}.weight"]) in norms
    }
    if not found:
        raise UnfitModelError(
            "boost needs ungrouped convolutions whose output goes into a batch norm (with scale and running "
            f"statistics) and nowhere else, and none of these has one: {', '.join(names)}."
        )
    return found
