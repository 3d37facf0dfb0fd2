"""KSE: the kernels of each input channel put into clusters, as many as the channel is worth."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import Method
from secateur.masks import Only, prunable, unwrap
from secateur.measures import Batch
from secateur.methods import kernel_sparsity_entropy
from secateur.pruning import scores
from secateur.replacing._clustered import ClusteredConv, convolutions, kernel_counts


@dataclass(frozen=True)
class Kernels:
    """What became of one layer.

    Attributes:
        before: kernels that it had.
        after: kernels that it stores.
        unread: input channels that it no longer reads.
        bits: of its kernels and index together, an index of q kernels being ⌈log₂ q⌉ bits.
        bits_before: of its dense weight.
    """

    before: int
    after: int
    unread: int
    bits: int
    bits_before: int


@dataclass(frozen=True)
class Clustered:
    """A model whose convolutions store few kernels.

    Attributes:
        model: the new model.
        layers: what became of each convolution, by its path.
    """

    model: nn.Module
    layers: dict[str, Kernels]

    @property
    def compression(self) -> float:
        """How many times smaller these layers are, kernels and index counted."""
        return sum(each.bits_before for each in self.layers.values()) / sum(each.bits for each in self.layers.values())

    def __str__(self) -> str:
        before, after = (sum(getattr(each, when) for each in self.layers.values()) for when in ("before", "after"))
        return f"{len(self.layers)} layers, {before:,} kernels before and {after:,} after, {self.compression:.2f}×"


def cluster_kernels(
    model: nn.Module,
    *,
    groups: int = 4,
    shift: int = 0,
    method: Method | None = None,
    batches: Iterable[Batch] | None = None,
    only: Only = None,
    generator: torch.Generator | None = None,
) -> Clustered:
    """Let each input channel of each convolution keep as many kernels as it is worth, and say which output reads which.

    A channel's worth v in [0, 1] says how many of its N kernels stay: q = 0 where ⌊vG⌋ = 0, N where ⌈vG⌉ = G, else
    ⌈N/2^{G − ⌈vG⌉ + T}⌉, the centres of k-means. Train the centres afterwards with any optimizer. Nothing is masked:
    the layer stores centres and an index.

    Args:
        model: stays as it is.
        groups: G, at least 2; more of them cut less. The authors' are 4 and 5.
        shift: T, at least 0: halves the kernels of channels in between so many times more.
        method: what a channel is worth, a method that cuts inputs (`structure.columns`), whose scores are brought to
            [0, 1] layer by layer; KSE's own by default.
        batches: where the method needs some.
        only: which weights, see `prunable`; of those, ungrouped convolutions that share no weights.
        generator: for the seeds of k-means; the global seed by default.

    Raises:
        SecateurError: options out of range; scores that are not one per input channel. UnfitModelError: no convolution.

    Source: Li et al., "Exploiting kernel sparsity and entropy for interpretable CNN compression", arXiv 1812.04368,
    §3.3.
    Deviates: k-means is exact where a channel keeps all its kernels; see `methods.kernel_sparsity_entropy`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> small = cluster_kernels(net)
    >>> small.layers["2"].before, small.layers["2"].after < 64
    (64, True)
    """
    require_model(model, "cluster_kernels(model, groups=4)")
    refuse_sparsified(model, "Clustering kernels")
    if groups < 2 or shift < 0:
        raise SecateurError(f"`groups` must be at least 2 and `shift` at least 0, got {groups} and {shift}.")
    network = copy.deepcopy(unwrap(model))
    names = list(prunable(network, only))
    found = convolutions(network, names)
    if not found:
        raise UnfitModelError(
            "cluster_kernels stores few kernels of ungrouped convolutions that share no weights, and none of these is "
            f"one: {', '.join(names)}."
        )
    worth = _worth(network, method or kernel_sparsity_entropy(0.5), batches, [f"{path}.weight" for path in found])
    drawn = generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed())
    layers = {}
    for path, layer in found.items():
        counts = kernel_counts(worth[f"{path}.weight"], layer.out_channels, groups=groups, shift=shift)
        stands_in = ClusteredConv(layer, counts).train(layer.training)
        stands_in.cluster(layer.weight.detach(), drawn)
        network.set_submodule(path, stands_in)
        width = 8 * layer.weight.element_size()
        before = layer.out_channels * layer.in_channels
        unread = int((counts == 0).sum())
        layers[path] = Kernels(
            before, len(stands_in.centres), unread, stands_in.bits(width), layer.weight.numel() * width
        )
    return Clustered(network, layers)


def clustered_like(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` with clustered convolutions where `state`, the state_dict of a clustered model, has some.

    So what was clustered opens again: `clustered_like(make(), safetensors.torch.load_file(path))`.

    Raises:
        SecateurError: clustered layers of another model.
    """
    network = copy.deepcopy(unwrap(model))
    for name, counts in state.items():
        path, _, last = name.rpartition(".")
        if last != "counts" or f"{path}.centres" not in state:
            continue
        layer = dict(network.named_modules()).get(path)
        known = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not known or layer.in_channels != len(counts) or bool((counts < 0).any()):
            raise SecateurError(f"`state` has clustered kernels of {path!r}: no such convolution is in this model.")
        network.set_submodule(path, ClusteredConv(layer, counts).train(layer.training))
    network.load_state_dict(dict(state))
    return network


def _worth(model: nn.Module, method: Method, batches: Iterable[Batch] | None, names: list[str]) -> dict[str, Tensor]:
    """What each input channel of each layer is worth, from 0 to 1; 1 where all are worth the same."""
    found = {}
    for name, values in scores(model, method, batches, only=names).items():
        weight = model.get_parameter(name)
        each = method.structure.scores(name, values) if values.shape == weight.shape else values
        if each.shape != (weight.shape[1],):
            raise SecateurError(
                f"`method` must score input channels, {weight.shape[1]} of {name!r}, and {method.name} scores "
                f"{each.numel()} {method.structure.name}. Give it structure.columns()."
            )
        if not bool(torch.isfinite(each).all()):
            raise SecateurError(f"the scores of {name!r} by {method.name} are not finite: look for NaN in the weights.")
        low, high = each.min(), each.max()
        found[name] = (each - low) / (high - low) if high > low else torch.ones_like(each)
    return found
