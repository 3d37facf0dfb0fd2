"""BEiT's attention, as timm has it, with any number of heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.coupling.attention._whole import Whole

__all__ = ["OwnPositions", "takes_positions"]

_PARTS = ("num_heads", "scale", "qkv", "proj", "attn_drop", "proj_drop", "q_bias", "relative_position_bias_table")


class OwnPositions(Whole, nn.Module):
    """softmax(scale · q kᵀ + bias) v with a bias for each relative position and head; the heads' width is an attribute.

    Made by `hold_own_widths` with the tensors of timm's module, and left in a smaller model where heads went.

    Attributes:
        num_heads: how many heads there are.
        head_dim: the width of each.
        scale: what the products are multiplied by.
        was: the class before.
        whole: number and width of heads, and of the stream, that it began with.

    Source: Bao et al., arXiv 2106.08254; relative positions as in Liu et al., arXiv 2103.14030, §3.2.
    """

    added = ("head_dim",)
    num_heads: int
    head_dim: int
    scale: float
    qkv: nn.Linear
    proj: nn.Linear
    attn_drop: nn.Dropout
    proj_drop: nn.Module
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    relative_position_bias_table: Tensor | None
    relative_position_index: Tensor | None

    @staticmethod
    def begin(module: OwnPositions, before: type[nn.Module]) -> None:
        """Give a module that was of another class what this one needs."""
        module.was, module.head_dim = before, module.qkv.weight.shape[0] // (3 * module.num_heads)
        module.whole = module.numbers()

    def numbers(self) -> tuple[int, ...]:
        """Number and width of heads, and the width of the stream."""
        return int(self.num_heads), int(self.head_dim), self.proj.weight.shape[0]

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: [example, position, channel].
            shared_rel_pos_bias: what all layers add to the products besides.
        """
        bias = None
        if self.q_bias is not None and self.k_bias is not None and self.v_bias is not None:
            bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop.p if self.training else 0.0
        mask = self._added(shared_rel_pos_bias)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))

    def _added(self, shared: Tensor | None) -> Tensor | None:
        table = self.relative_position_bias_table
        if table is None:
            return shared
        own = table[self.relative_position_index].permute(2, 0, 1)[None]
        return own if shared is None else own + shared


def takes_positions(module: nn.Module) -> bool:
    """Whether the module has what timm's has, and no bias of its own in the projection."""
    return all(hasattr(module, name) for name in _PARTS) and getattr(module.qkv, "bias", None) is None
