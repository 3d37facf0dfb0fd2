"""`nn.MultiheadAttention` with any number of heads of any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.coupling.attention._whole import Whole

__all__ = ["OwnHeads", "takes_heads"]


class OwnHeads(Whole, nn.MultiheadAttention):
    """softmax(scale · q kᵀ + mask) v for heads whose widths are attributes; else it is `nn.MultiheadAttention`.

    Made by `hold_own_widths`, and left in a smaller model where heads went. Called as `nn.MultiheadAttention` is; with
    `need_weights`, the weights are those of the heads that there are.

    Attributes:
        num_heads: how many heads there are.
        head_dim: the width of each head's queries and keys.
        value_dim: the width of each head's values.
        scale: what the products are multiplied by: 1/√width of the width that it was trained with.
        was: the class before.
        whole: the four numbers that it began with, and the width of the stream.
    """

    added = ("value_dim", "scale")
    value_dim: int
    scale: float

    @staticmethod
    def begin(module: OwnHeads, before: type[nn.Module]) -> None:
        """Give a module that was of another class what this one needs."""
        module.was, module.value_dim, module.scale = before, module.head_dim, module.head_dim**-0.5
        module._qkv_same_embed_dim = False  # torch's fused encoder layer would divide by the number of heads itself
        module.whole = module.numbers()

    def numbers(self) -> tuple[int, ...]:
        """Number and widths of heads, and the width of the stream."""
        return int(self.num_heads), int(self.head_dim), int(self.value_dim), self.out_proj.out_features

    def end(self) -> None:
        """Take away what `begin` gave."""
        super().end()
        self._qkv_same_embed_dim = self.in_proj_weight is not None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as `nn.MultiheadAttention.forward` does."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        alone = query.ndim == 2
        if alone:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q)
        mixed, weights = self._mixed(q, k, v, mask, need_weights)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if alone:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return queries, keys and values: [example, head, position, width]."""
        widths = [self.num_heads * self.head_dim, self.num_heads * self.head_dim, self.num_heads * self.value_dim]
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.split(widths)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.split(widths)
        found = []
        for x, weight, bias, width in zip(
            (query, key, value), weights, biases, (self.head_dim, self.head_dim, self.value_dim), strict=True
        ):
            found.append(F.linear(x, weight, bias).unflatten(-1, (self.num_heads, width)).transpose(1, 2))
        return found

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Return what is added to the products: minus infinity where a mask is true."""
        found = None
        if attn_mask is not None:
            found = _added(attn_mask, q.dtype)
            if attn_mask.ndim == 3:
                # Never -1 for the batch: a mask for the heads that there were would be read as one for more examples.
                found = found.unflatten(0, (q.shape[0], self.num_heads))
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q.dtype)
            padding = (padding if padding.ndim == 2 else padding[None])[:, None, None, :]
            found = padding if found is None else found + padding
        return found

    def _mixed(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale)
            return mixed, None
        products = (q * self.scale) @ k.transpose(-2, -1)
        weights = F.dropout((products if mask is None else products + mask).softmax(-1), dropout)
        return weights @ v, weights


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


def takes_heads(module: nn.Module) -> bool:
    """Whether the module does nothing that `OwnHeads` does not: no learned or zero positions are added."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
        and module.num_heads > 0
    )
