"""The cut: rows and columns that go are left out, and what the modules say of themselves is made true again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from secateur.coupling import Attribute, Coupling, Frozen, Ids, ResidualBlock, Rms, hold_own_widths, remove_

__all__ = ["Plan", "cut", "cut_", "describe_", "holder_of", "kept_indices", "ratios", "scalings", "sliced"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A cut that the model's own code accepts.

    Attributes:
        coupling: what is tied to what.
        gone: the classes that go, one bool per class.
        numbers: new values of integers in the user's code.
        frozen: what was found on the way to be no cut, with the reason.
        removed: residual blocks that go as a whole; the coupling is of the model without them.
    """

    coupling: Coupling
    gone: np.ndarray
    numbers: Mapping[Attribute, int] = field(default_factory=dict)
    frozen: tuple[Frozen, ...] = ()
    removed: tuple[ResidualBlock, ...] = ()

    def count(self, ids: Ids) -> int:
        """Return how many of these stay."""
        return int((~self.gone[ids]).sum())


def kept_indices(plan: Plan) -> dict[tuple[str, ...], list[tuple[int, Tensor]]]:
    """Return, for each tensor that becomes smaller, by all of its names, which indices of which dimensions stay."""
    found: dict[tuple[str, ...], list[tuple[int, Tensor]]] = {}
    for entry in plan.coupling.entries:
        index = np.flatnonzero(~plan.gone[entry.ids])
        if len(index) < len(entry.ids):
            found.setdefault(entry.names, []).append((entry.dim, torch.from_numpy(index)))
    return found


def sliced(tensor: Tensor, kept: list[tuple[int, Tensor]]) -> Tensor:
    """Return the part of a tensor that stays, in memory of its own."""
    for dim, index in kept:
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor.clone() if not kept else tensor


def ratios(plan: Plan) -> dict[Rms, float]:
    """Return, for each root mean square norm, old over new width."""
    return {norm: len(ids) / plan.count(ids) for norm, ids in plan.coupling.rescaled if plan.gone[ids].any()}


def scalings(plan: Plan) -> dict[str, float]:
    """Return, for each weight that makes queries whose width goes, by name, √(d'/d): their scale is 1/√d' then."""
    return {
        name: (plan.count(ids) / len(ids)) ** 0.5
        for names, ids in plan.coupling.scaled
        if plan.gone[ids].any()
        for name in names
    }


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a smaller copy of the model."""
    small = copy.deepcopy(model)
    cut_(small, plan)
    return small


def cut_(model: nn.Module, plan: Plan) -> dict[nn.Parameter, nn.Parameter]:
    """Make the model smaller in place, and return the new parameter of each that was replaced.

    Attention holds its own widths then; `settle` gives back what lost nothing.
    """
    remove_(model, plan.removed)
    hold_own_widths(model)
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    with torch.no_grad():
        for names, kept in kept_indices(plan).items():
            _replace(model, names, kept, replaced)
        for norm, ratio in ratios(plan).items():
            _rescale(model, norm, ratio)
        for name, factor in scalings(plan).items():
            model.get_parameter(name).mul_(factor)
    for attribute, value in plan.numbers.items():
        setattr(holder_of(model, attribute), attribute.name, value)
    for module in model.modules():
        describe_(module)
    return replaced


def _replace(
    model: nn.Module,
    names: tuple[str, ...],
    kept: list[tuple[int, Tensor]],
    replaced: dict[nn.Parameter, nn.Parameter],
) -> None:
    path, _, name = names[0].rpartition(".")
    old = getattr(model.get_submodule(path), name)
    new = sliced(old.detach(), kept)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
        replaced[old] = new
    for each in names:  # a tied tensor stays tied
        path, _, name = each.rpartition(".")
        setattr(model.get_submodule(path), name, new)


def holder_of(model: nn.Module, attribute: Attribute) -> object:
    """Return the module, or the object in it, that holds an integer."""
    module = model.get_submodule(attribute.path)
    return getattr(module, attribute.inner) if attribute.inner else module


def _rescale(model: nn.Module, norm: Rms, ratio: float) -> None:
    """Over d' of d entries, the others zero: mean' = mean · d/d', so weight · √(d/d') and ε · d/d' compute the same."""
    module = model.get_submodule(norm.module)
    weight: Tensor = getattr(module, norm.weight)
    weight.add_(1).mul_(ratio**0.5).sub_(1) if norm.plus_one else weight.mul_(ratio**0.5)
    epsilon = getattr(module, norm.epsilon)
    if epsilon is None:  # torch takes that of the input's type
        epsilon = torch.finfo(weight.dtype).eps
    setattr(module, norm.epsilon, epsilon * ratio)


def describe_(module: nn.Module) -> None:
    """Set what torch's own modules say of their sizes."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear) and isinstance(weight, Tensor):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        first, second = weight.shape[:2]
        outs, ins = (second * module.groups, first) if module.transposed else (first, second * module.groups)
        module.out_channels, module.in_channels = outs, ins
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        known = next((t for t in (weight, module.running_mean) if isinstance(t, Tensor)), None)
        module.num_features = module.num_features if known is None else len(known)
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        module.num_channels = len(weight)
    elif isinstance(module, nn.RMSNorm | nn.LayerNorm) and isinstance(weight, Tensor):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.MultiheadAttention):
        module.embed_dim = module.out_proj.weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        module.input_size = module._parameters["weight_ih_l0"].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
