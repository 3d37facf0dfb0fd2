"""Choose how the layers of transformers run: attention, and GPT-2's `Conv1D`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from secateur.masks import layouts
from secateur.sparse.convert._decided import Chosen, as_timed, by_break_even
from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.convert._situation import Situation, beside, refused_by_kernels, without_gain
from secateur.sparse.convert._timed import timed
from secateur.sparse.layers import SparseLinear
from secateur.sparse.transformers import (
    SparseAttention,
    SparseTransposedLinear,
    attention_weights,
    sparse_attention,
    why_no_conv1d,
)


def is_conv1d(module: nn.Module) -> bool:
    """Tell whether a module looks like GPT-2's `Conv1D`, whose weight is [inputs, outputs]."""
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    return "weight" in module._parameters and not transposed and "weight" in layouts(module)


def conv1d(path: str, module: nn.Module, situation: Situation) -> Chosen:
    """Choose how a `Conv1D` runs."""
    weight = module.get_parameter("weight")
    mask, name = situation.mask(weight), situation.name(path, "weight", weight)
    reason = situation.why_not(module, type(module)) or (None if weight.numel() else "it has no weights")
    reason = reason or refused_by_kernels(module, torch.bfloat16) or without_gain(mask)
    reason = reason or why_no_conv1d(module)
    if reason is not None or mask is None:
        return None, [LayerReport.of(name, weight, mask, Choice.UNTOUCHED, reason or "")]
    sparse = SparseTransposedLinear.from_conv1d(module, mask)
    if path in situation.uses_by_path:
        return as_timed(path, module, sparse, situation, name, mask)
    return by_break_even(weight, sparse, situation, name, mask)


def attention(path: str, module: nn.MultiheadAttention, situation: Situation) -> Chosen:
    """Choose how attention runs: its projections together where they are timed, else each by its break-even."""
    weights = _weights(module)
    own = {name: mask for name, p in weights.items() if (mask := situation.mask(p)) is not None}
    thin = {name: mask for name, mask in own.items() if without_gain(mask) is None}
    reason = _why_no_attention(module, situation)
    if reason is not None or not thin:
        said = {name: (Choice.UNTOUCHED, reason or without_gain(own.get(name)) or "") for name in weights}
        return None, _lines(path, weights, own, situation, said)
    sparse = sparse_attention(module, thin)
    if path not in situation.uses_by_path:
        return sparse, _lines(path, weights, own, situation, _by_break_even(sparse, thin, situation))
    found = timed(module, sparse, situation.uses_by_path[path])
    wins = situation.takes_sparse(found.sparse_wins)
    choice = Choice.SPARSE if wins else Choice.DENSE
    said = dict.fromkeys(thin, (choice, f"the whole attention: {found}"))
    return sparse if wins else None, _lines(path, weights, own, situation, said)


def _weights(module: nn.MultiheadAttention) -> dict[str, nn.Parameter]:
    last = module.out_proj._parameters.get("weight")
    return {**attention_weights(module), **({} if last is None else {"out_proj.weight": last})}


def _why_no_attention(module: nn.MultiheadAttention, situation: Situation) -> str | None:
    last = module.out_proj
    if (reason := situation.why_not(module, nn.MultiheadAttention)) is not None:
        return reason
    if type(last) is not NonDynamicallyQuantizableLinear:
        return f"its out_proj is a {type(last).__name__}, not the layer that torch puts there"
    if (reason := situation.why_not(last, type(last))) is not None:
        return f"its out_proj: {reason}"
    for name in ("in_proj_bias", "bias_k", "bias_v"):
        if situation.mask(module._parameters.get(name)) is not None:
            return f"its {name} is masked too"
    mixed = None if last.weight.dtype is next(iter(_weights(module).values())).dtype else "its weights are of two types"
    return mixed or refused_by_kernels(module, torch.bfloat16) or refused_by_kernels(last, torch.bfloat16)


def _by_break_even(
    sparse: SparseAttention, masks: dict[str, Tensor], situation: Situation
) -> dict[str, tuple[Choice, str]]:
    """Decide for the input projections together, and for the output projection."""
    machine, said = situation.machine, dict[str, tuple[Choice, str]]()
    if not sparse.compute_dense:
        plan = next(iter(sparse.plans.values()))
        limit = machine.break_even(plan.rows, plan.columns, situation.batch)
        sparse.compute_dense, sparse.onednn = sparse.density >= limit, machine.onednn
        choice = Choice.DENSE if sparse.compute_dense else Choice.SPARSE
        reason = beside(sparse.density, limit, what=" of the input projections")
        said |= dict.fromkeys(sparse.plans.keys() & masks.keys(), (choice, reason))
    last = sparse.out_proj
    if isinstance(last, SparseLinear):
        _, (line,) = by_break_even(last.weight, last, situation, "", masks["out_proj.weight"])
        said["out_proj.weight"] = (line.choice, line.reason)
    return said


def _lines(
    path: str,
    weights: dict[str, nn.Parameter],
    masks: dict[str, Tensor],
    situation: Situation,
    said: Mapping[str, tuple[Choice, str]],
) -> list[LayerReport]:
    lines = []
    for name, weight in weights.items():
        choice, reason = said.get(name, (Choice.UNTOUCHED, without_gain(masks.get(name)) or ""))
        full, held = situation.name(path, name, weight), choice is not Choice.UNTOUCHED
        lines.append(LayerReport.of(full, weight, masks.get(name), choice, reason, held=held))
    return lines
