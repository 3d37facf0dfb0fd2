"""Attention in shifted windows as its papers have it, one window and one head at a time: the test's own rendering."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Windows(nn.Module):
    """What torchvision's module holds, by its names; computed window by window, head by head.

    Args:
        width: of the stream.
        window: rows and columns of a window.
        shift: by how much windows are moved.
        heads: how many.
        bias: whether projections have one.
        second: whether it is the second version: normalised products, positions through a perceptron.
    """

    def __init__(
        self, width: int, window: list[int], shift: list[int], heads: int, *, bias: bool = True, second: bool = False
    ) -> None:
        super().__init__()
        self.window_size, self.shift_size, self.num_heads = window, shift, heads
        self.attention_dropout, self.dropout = 0.0, 0.0
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        rows, columns = (2 * n - 1 for n in window)
        places = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + torch.tensor(window)[:, None, None] - 1
        self.register_buffer("relative_position_index", (apart[0] * columns + apart[1]).flatten())
        if second:
            self.logit_scale = nn.Parameter(torch.rand(heads, 1, 1) + 4)
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, heads, bias=False))
            self.register_buffer("relative_coords_table", torch.randn(1, rows, columns, 2))
        else:
            self.relative_position_bias_table = nn.Parameter(torch.randn(rows * columns, heads))

    def forward(self, x: Tensor) -> Tensor:
        high, wide = self.window_size
        _, rows, columns, _ = x.shape
        x = nn.functional.pad(x, (0, 0, 0, -columns % wide, 0, -rows % high))
        tall, broad = x.shape[1:3]
        down = 0 if high >= tall else self.shift_size[0]
        right = 0 if wide >= broad else self.shift_size[1]
        # Which part of the unshifted map each place of the shifted one is from, by the side of the border it lies on.
        row = torch.arange(tall).roll(-down)
        column = torch.arange(broad).roll(-right)
        out = torch.zeros_like(x)
        for top in range(0, tall, high):
            for left in range(0, broad, wide):
                here, there = row[top : top + high], column[left : left + wide]
                side = (here < down)[:, None] * 2 + (there < right)[None, :]
                tokens = x[:, here][:, :, there].flatten(1, 2)
                mixed = self._window(tokens, side.flatten()).unflatten(1, (high, wide))
                out[:, here[:, None], there[None, :]] = mixed
        return out[:, :rows, :columns]

    def _window(self, tokens: Tensor, side: Tensor) -> Tensor:
        width = tokens.shape[-1]
        size = width // self.num_heads
        weight, bias = self.qkv.weight, self.qkv.bias
        q, k, v = (tokens @ part.T for part in weight.split(width))
        second = hasattr(self, "logit_scale")
        if bias is not None:
            q, v = q + bias[:width], v + bias[2 * width :]
            k = k if second else k + bias[width : 2 * width]
        apart = torch.where(side[:, None] == side[None, :], 0.0, -100.0).to(tokens)
        heads = []
        for head in range(self.num_heads):
            own = slice(head * size, (head + 1) * size)
            one, other = q[..., own], k[..., own]
            if second:
                one, other = (each / each.norm(dim=-1, keepdim=True).clamp_min(1e-12) for each in (one, other))
                products = one @ other.mT * self.logit_scale[head].clamp(max=math.log(100)).exp()
            else:
                products = one @ other.mT / math.sqrt(size)
            heads.append((products + self._bias(head) + apart).softmax(-1) @ v[..., own])
        return torch.cat(heads, -1) @ self.proj.weight.T + (0 if self.proj.bias is None else self.proj.bias)

    def _bias(self, head: int) -> Tensor:
        area = math.prod(self.window_size)
        if hasattr(self, "cpb_mlp"):
            table = 16 * self.cpb_mlp(self.relative_coords_table)[0].flatten(0, 1)[:, head].sigmoid()
        else:
            table = self.relative_position_bias_table[:, head]
        index = self.relative_position_index
        assert isinstance(index, Tensor)
        return table[index].view(area, area)


class Positions(nn.Module):
    """BEiT's attention by the names of timm's module, one head at a time.

    Args:
        width: of the stream.
        heads: how many.
        tokens: how many positions; None for no bias of positions.
        bias: whether queries and values have one.
    """

    def __init__(self, width: int, heads: int, *, tokens: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Identity()
        self.q_bias, self.v_bias = (nn.Parameter(torch.randn(width)) if bias else None for _ in range(2))
        self.register_buffer("k_bias", torch.zeros(width) if bias else None, persistent=False)
        self.relative_position_bias_table = nn.Parameter(torch.randn(2 * (tokens or 1), heads)) if tokens else None
        places = torch.arange(tokens or 1)
        index = (places[:, None] - places[None, :] + (tokens or 1)) if tokens else None
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        width = x.shape[-1]
        size, heads = width // self.num_heads, []
        q, k, v = (x @ part.T for part in self.qkv.weight.split(width))
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias, v + self.v_bias
        for head in range(self.num_heads):
            own = slice(head * size, (head + 1) * size)
            products = q[..., own] @ k[..., own].mT * self.scale
            if self.relative_position_bias_table is not None:
                products = products + self.relative_position_bias_table[self.relative_position_index, head]
            if shared_rel_pos_bias is not None:
                products = products + shared_rel_pos_bias[:, head]
            heads.append(products.softmax(-1) @ v[..., own])
        return torch.cat(heads, -1) @ self.proj.weight.T + self.proj.bias


# Known by their full names: the library imports neither torchvision nor timm.
Positions.__module__, Positions.__qualname__ = "timm.models.beit", "Attention"
Windows.__module__, Windows.__qualname__ = "torchvision.models.swin_transformer", "ShiftedWindowAttention"
