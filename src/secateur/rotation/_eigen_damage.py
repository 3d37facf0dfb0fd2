"""EigenDamage: rows and columns of each layer go in the eigenbasis of its Kronecker-factored Fisher matrix."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.curvature import Likelihood, input_factor, output_factor
from secateur.masks import Only, prunable, unwrap
from secateur.measures import Batch, Loss, Params, gather
from secateur.selection import check_density, kept_count, topk_mask

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Turned:
    """What became of one layer.

    Attributes:
        inputs: eigenvectors of its inputs that stay, and of how many.
        outputs: eigenvectors of its outputs that stay, and of how many.
        before: its weights.
        after: those of the three layers in its place; as before where they would be more, and it stays as it is.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    before: int
    after: int


@dataclass(frozen=True)
class Rotated:
    """A model with layers in the eigenbasis.

    Attributes:
        model: the new model.
        layers: what became of each layer, by the name of its weight.
    """

    model: nn.Module
    layers: dict[str, Turned]

    def __str__(self) -> str:
        before, after = (sum(getattr(each, when) for each in self.layers.values()) for when in ("before", "after"))
        return f"{len(self.layers)} layers, {before:,} weights before and {after:,} after"


@dataclass(frozen=True)
class _Basis:
    """One layer in its eigenbasis: W = Q_g W* Q_aᵀ, and what each entry of W* is worth."""

    core: Tensor
    inward: Tensor
    outward: Tensor
    worth: Tensor

    @staticmethod
    def of(weight: Tensor, inputs: Tensor, outputs: Tensor) -> _Basis:
        channels = weight.shape[1]
        taps = weight[0, 0].numel()
        by_tap = inputs.reshape(channels, taps, channels, taps).diagonal(dim1=1, dim2=3).sum(-1) / taps
        (la, qa), (lg, qg) = torch.linalg.eigh(by_tap), torch.linalg.eigh(outputs)
        rows = weight.double().flatten(2) if weight.dim() > 2 else weight.double()[..., None]
        core = torch.einsum("oi,oct,cj->ijt", qg, rows, qa)
        worth = core.square().sum(2) * torch.outer(lg.clamp(min=0), la.clamp(min=0))
        return _Basis(core, qa, qg, worth)


@torch.no_grad()
def eigen_damage(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    density: float,
    only: Only = None,
    loss: Loss | None = None,
    likelihood: Likelihood | None = None,
    draws: int = 1,
    larger: bool = False,
    generator: torch.Generator | None = None,
) -> Rotated:
    """Turn layers into the eigenbasis of their Fisher matrix, and leave out the rows and columns that are worth least.

    With A = Q_a Λ_a Q_aᵀ and G = Q_g Λ_g Q_gᵀ (`curvature.input_factor`, of channels; `output_factor`):
    W* = Q_gᵀ W Q_a, row i is worth Σ_j W*_ij² λ^g_i λ^a_j, and a column the same of its entries. One ranking over rows
    and columns of all layers; one of each stays at least. A layer becomes three: 1×1 (Q_aᵀ, the columns that stay), the
    core with stride, padding and dilation, and 1×1 (Q_g, the rows that stay) with the bias. It is no mask: train what
    comes back.

    Args:
        model: stays as it is.
        batches: inputs; labels are not looked at.
        density: the fraction of all rows and columns that stays.
        only: which weights, see `prunable`: of Linear and ungrouped convolution layers. By default all of those.
        loss: as in `prune`.
        likelihood: p(y|x); None: that of cross-entropy.
        draws: labels drawn for each sample.
        larger: also turn layers whose three parts have more weights than they have.
        generator: for drawing labels.

    Raises:
        SecateurError: no layer that can be turned; as `gather`.

    Source: Wang, Grosse, Fidler & Zhang, "EigenDamage", arXiv 1905.05934, §4 and Algorithm 1.
    Deviates: exactly κ of all rows and columns; no limit of 95 % of a layer besides the one that stays.

    >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    >>> drawn = torch.Generator().manual_seed(0)
    >>> found = eigen_damage(net, [torch.randn(20, 8, generator=drawn)], density=0.5, generator=drawn)
    >>> sum(each.inputs[0] + each.outputs[0] for each in found.layers.values())
    12
    """
    require_model(model, "eigen_damage(model, batches, density=0.5)")
    check_density(density)
    network = copy.deepcopy(unwrap(model))
    params = _turnable(network, only)
    asked = [input_factor(), output_factor(draws=draws, likelihood=likelihood)]
    factors = gather(network, batches, asked, params=params, loss=loss, generator=generator)
    bases = {
        name: _Basis.of(p, factors["input_factor"][name], factors["output_factor"][name]) for name, p in params.items()
    }
    stays = _chosen(bases, density)
    layers = {name: _replaced(network, name, bases[name], *stays[name], larger) for name in params}
    return Rotated(network, layers)


def _turnable(model: nn.Module, only: Only) -> Params:
    """The weights of layers that can be turned, which nothing else shares."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(module)
    found = {}
    for name, parameter in prunable(model, only).items():
        own = owners[id(parameter)]
        plain = isinstance(own[0], nn.Linear) or (isinstance(own[0], _CONVOLUTIONS) and own[0].groups == 1)
        hidden = isinstance(own[0], nn.modules.linear.NonDynamicallyQuantizableLinear)  # attention calls it by itself
        if plain and not hidden and len(own) == 1 and name.endswith("weight"):
            found[name] = parameter
    if not found:
        raise UnfitModelError(
            "eigen_damage turns Linear and ungrouped convolution layers that share no weights, and there is none among "
            f"{', '.join(prunable(model, only))}."
        )
    return found


def _chosen(bases: dict[str, _Basis], density: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Which rows and columns stay: the worthiest of all, at least one of each."""
    worth = {}
    for name, basis in bases.items():
        for side, values in (("rows", basis.worth.sum(1)), ("columns", basis.worth.sum(0))):
            if not bool(torch.isfinite(values).all()):
                raise SecateurError(f"The factors of {name!r} are not finite: look for NaN among the batches.")
            worth[f"{name} {side}"] = values
    total = sum(len(values) for values in worth.values())
    keep = kept_count(density, total)
    if keep < len(worth):
        raise SecateurError(
            f"`density`={density:g} keeps {keep} of {total} rows and columns, fewer than one for each side of "
            f"{len(bases)} layers. Ask for at least {len(worth) / total:.3g}."
        )
    first = {name: values.argmax() for name, values in worth.items()}
    rest = {name: values.index_fill(0, first[name], 0.0) for name, values in worth.items()}
    raised = {name: values.index_fill(0, first[name], torch.finfo(values.dtype).max) for name, values in rest.items()}
    bits = topk_mask(raised, keep)
    return {name: (bits[f"{name} rows"], bits[f"{name} columns"]) for name in bases}


def _replaced(model: nn.Module, name: str, basis: _Basis, rows: Tensor, columns: Tensor, larger: bool) -> Turned:
    path = name.removesuffix("weight").rstrip(".")
    layer = model.get_submodule(path)
    core = basis.core[rows][:, columns]
    parts = (basis.inward[:, columns].T, core, basis.outward[:, rows])
    before, after = layer.get_parameter("weight").numel(), sum(part.numel() for part in parts)
    sizes = ((int(columns.sum()), len(columns)), (int(rows.sum()), len(rows)))
    if after >= before and not larger:
        return Turned(*sizes, before, before)
    chain = nn.Sequential(*_layers(layer, *parts)).train(layer.training)
    owner, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(owner), attribute, chain)
    return Turned(*sizes, before, after)


def _layers(layer: nn.Module, inward: Tensor, core: Tensor, outward: Tensor) -> list[nn.Module]:
    """1×1, core, 1×1."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    if isinstance(layer, nn.Linear):
        made = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (inward, core[..., 0], outward)]
        values = [inward, core[..., 0], outward]
    else:
        assert isinstance(layer, _CONVOLUTIONS)
        kind, rank = type(layer), weight.dim() - 2
        options = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        middle = kind(core.shape[1], core.shape[0], bias=False, padding_mode=layer.padding_mode, **options)
        made = [kind(inward.shape[1], inward.shape[0], 1, bias=False), middle]
        made.append(kind(outward.shape[1], outward.shape[0], 1, bias=False))
        ends = [part.reshape(*part.shape, *[1] * rank) for part in (inward, outward)]
        values = [ends[0], core.reshape(*core.shape[:2], *weight.shape[2:]), ends[1]]
    for one, value in zip(made, values, strict=True):
        one.weight = nn.Parameter(value.to(weight), requires_grad=weight.requires_grad)
    if bias is not None:
        made[-1].bias = nn.Parameter(bias.clone(), requires_grad=bias.requires_grad)
    return list(made)
