"""What multi-head attention computes between its projections, with torch's masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Call:
    """How the heads attend: their number, the dropout that is on, and whether the weights are asked for."""

    heads: int
    dropout: float
    need_weights: bool


def merged_mask(
    query: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None, is_causal: bool, call: Call
) -> tuple[Tensor | None, bool]:
    """Return one mask to be added, [batch or 1, heads or 1, queries or 1, keys], or whether a causal one does.

    Both masks are boolean, True for what is left out, or are added. As in torch, `is_causal` is a hint about
    `attn_mask`, taken where nothing else is masked and no weights are asked for.
    """
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # torch's own sentence
    canonical, kind = functional._canonical_mask, functional._none_or_dtype  # type: ignore[attr-defined]
    padding: Tensor | None = canonical(
        mask=key_padding_mask, mask_name="key_padding_mask", other_type=kind(attn_mask), other_name="attn_mask",
        target_type=query.dtype,
    )  # fmt: skip
    if is_causal and padding is None and not call.need_weights:
        return None, True
    mask: Tensor | None = canonical(
        mask=attn_mask, mask_name="attn_mask", other_type=None, other_name="", target_type=query.dtype,
        check_other=False,
    )  # fmt: skip
    if mask is not None:
        mask = mask.view(1, 1, *mask.shape) if mask.dim() == 2 else mask.unflatten(0, (-1, call.heads))
    if padding is not None:
        padding = padding.view(-1, 1, 1, padding.shape[-1])
        mask = padding if mask is None else mask + padding
    return mask, False


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, call: Call
) -> tuple[Tensor, Tensor | None]:
    """Attend with all heads: queries, keys and values [batch, length, features] → the same for the queries, and the
    weights [batch, heads, queries, keys] where they are asked for."""
    q, k, v = (x.unflatten(-1, (call.heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None:
        added = k.shape[2] - mask.shape[3]  # rows that nobody masks: bias_k, and zeros
        mask = functional.pad(mask, (0, added)) if added else mask
        mask = mask.to(q.dtype).expand(-1, -1, q.shape[2], -1)
    weights: Tensor | None = None
    if call.need_weights:
        scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = functional.dropout(weights, call.dropout) if call.dropout else weights
        out = weights @ v
    else:
        out = functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=call.dropout, is_causal=causal)
    return out.transpose(1, 2).flatten(2), weights
