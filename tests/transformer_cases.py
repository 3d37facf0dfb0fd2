"""What tests of sparse transformers share: GPT-2's `Conv1D` as a stand-in, a block of it, masks, and gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur import Masks


class Conv1D(nn.Module):
    """As in transformers: y = x W + b, W [inputs, outputs]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(0.3 * torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def __repr__(self) -> str:
        return f"Conv1D(nf={self.nf}, nx={self.nx})"

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class GPT2Block(nn.Module):
    """A block of GPT-2, under the names of transformers."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.c_attn, self.c_proj = Conv1D(3 * size, size), Conv1D(size, size)
        self.c_fc, self.c_out = Conv1D(4 * size, size), Conv1D(size, 4 * size)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(self.ln_1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(attended.transpose(1, 2).flatten(2))
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


def masks_of(model: nn.Module, density: float = 0.3, seed: int = 3) -> Masks:
    """Random masks of all matrices; biases and normalisations keep all."""
    generator = torch.Generator().manual_seed(seed)
    named = {n: p for n, p in model.named_parameters() if p.dim() == 2}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in named.items()})


def double(model: nn.Module, masks: Masks) -> nn.Module:
    """The masked model in float64, by torch's own operations: the reference of the tests."""
    import copy

    reference = copy.deepcopy(model).double()
    masks.apply_(reference)
    return reference
