"""Sparse attention out of a dense one: the weights that it has, and what survives of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.sparse.layers import SparseLinear, thinned
from secateur.sparse.plans import LayerPlan, plan_layer
from secateur.sparse.transformers._attention import BIASES, AttentionOptions, SparseAttention, values_of


def attention_weights(module: nn.MultiheadAttention) -> dict[str, nn.Parameter]:
    """Return the weights of the input projections by name: one that is packed, or three."""
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {name: p for name in names if (p := module._parameters.get(name)) is not None}


def sparse_attention(module: nn.MultiheadAttention, masks: Mapping[str, Tensor]) -> SparseAttention:
    """Take the surviving weights out of a dense module, as copies.

    Args:
        module: the dense module.
        masks: by the module's own names ("in_proj_weight", "out_proj.weight"); a weight without one keeps all.

    >>> sparse = sparse_attention(nn.MultiheadAttention(4, 2), {"in_proj_weight": torch.eye(12, 4) > 0})
    >>> [(name, tuple(p.shape)) for name, p in sparse.named_parameters()]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('in_proj_bias', (12,)), ('in_proj_values', (4,)), ('out_proj.weight', (4, 4)), ('out_proj.bias', (4,))]
    """
    plans: dict[str, LayerPlan] = {}
    tensors: dict[str, nn.Parameter] = {}
    for name, weight in attention_weights(module).items():
        plans[name] = plan_layer(masks.get(name, torch.ones_like(weight, dtype=torch.bool)), blocks=True)
        values = plans[name].gather(weight.detach())
        tensors[values_of(name)] = nn.Parameter(values, requires_grad=weight.requires_grad)
    for name in BIASES:
        bias = module._parameters.get(name)
        if bias is not None:
            tensors[name] = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    last: nn.Module = copy.deepcopy(module.out_proj)
    if "out_proj.weight" in masks:
        last = thinned(SparseLinear, plan_layer(masks["out_proj.weight"], blocks=True), module.out_proj)
    options = AttentionOptions(
        module.embed_dim, module.num_heads, module.dropout, "in_proj_bias" in tensors, "bias_k" in tensors,
        module.add_zero_attn, module.kdim, module.vdim, module.batch_first,
    )  # fmt: skip
    whole = plans.keys().isdisjoint(masks)  # nothing of the input projections is pruned
    return SparseAttention(options, plans, tensors, last, compute_dense=whole).train(module.training)
