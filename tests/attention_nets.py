"""Small nets with attention, for coupling and shrinking: fused and separate projections, grouped heads, windows."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coupling_nets import Case, alone


class Rms(nn.Module):
    """A root mean square norm written by hand."""

    def __init__(self, width: int, plus_one: bool = False) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.plus_one = nn.Parameter(torch.rand(width)), 1e-3, plus_one

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return x * (1 + self.weight if self.plus_one else self.weight)


class Gpt(nn.Module):
    """A fused projection split by an attribute, heads by a view, an embedding tied to the head."""

    def __init__(self, *, by_shape: bool = False) -> None:
        super().__init__()
        self.heads, self.split_size, self.by_shape, self.scale = 4, 16, by_shape, 0.5
        self.embedding, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(8, 8).tril().bool())

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.embedding(tokens) + self.places(torch.arange(t, device=tokens.device))
        parts = self.qkv(self.norm(x)).split(self.split_size, dim=2)
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in parts)
        weights = q @ k.transpose(-2, -1) * (k.size(-1) ** -0.5 if self.by_shape else self.scale)
        weights = weights.masked_fill(~self.mask[:t, :t], float("-inf"))
        y = (F.softmax(weights, -1) @ v).transpose(1, 2).contiguous().view(b, t, -1)
        x = x + self.out(y)
        return self.head(x + self.down(F.gelu(self.up(x))))


class Llama(nn.Module):
    """Grouped heads with rotary positions, gated units, root mean square norms; widths in a config object."""

    def __init__(self, *, native: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(heads=4, groups=2, width=6)
        self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.one, self.two = (nn.RMSNorm(16) if native else Rms(16) for _ in range(2))
        self.last = Rms(16, plus_one=True)
        self.q, self.o = nn.Linear(16, 24, bias=False), nn.Linear(24, 16, bias=False)
        self.k, self.v = nn.Linear(16, 12, bias=False), nn.Linear(16, 12, bias=False)
        self.gate, self.up = nn.Linear(16, 24, bias=False), nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)
        self.register_buffer("rates", 0.1 ** torch.arange(3.0))

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        c, x = self.config, self.embedding(tokens)
        angles = torch.arange(t, device=x.device)[:, None] * self.rates
        angles = torch.cat((angles, angles), -1)
        h = self.one(x)
        q = _turned(self.q(h).view(b, t, c.heads, c.width).transpose(1, 2), angles)
        k = _turned(self.k(h).view(b, t, c.groups, c.width).transpose(1, 2), angles)
        v = self.v(h).view(b, t, c.groups, c.width).transpose(1, 2)
        times = c.heads // c.groups
        k, v = (_repeated(each, b, c.groups, times, t, c.width, c.heads) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.two(x)
        return self.head(self.last(x + self.down(F.silu(self.gate(h)) * self.up(h))))


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    one, two = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * angles.cos() + torch.cat((-two, one), -1) * angles.sin()


def _repeated(x: Tensor, b: int, groups: int, times: int, t: int, width: int, heads: int) -> Tensor:
    return x[:, :, None].expand(b, groups, times, t, width).reshape(b, heads, t, width)


class Windows(nn.Module):
    """Swin's attention in shifted windows, with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.window, self.scale = 3, 2, 0.5
        self.patch, self.norm, self.qkv = nn.Conv2d(3, 12, 2, 2), nn.LayerNorm(12), nn.Linear(12, 36)
        self.out, self.table = nn.Linear(12, 12), nn.Parameter(torch.randn(9, 3))
        self.mlp, self.head = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)), nn.Linear(12, 4)
        self.register_buffer("index", torch.arange(16).remainder(9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-1, -1), (1, 2)).view(b, h // s, s, w // s, s, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).reshape(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(s * s, s * s, -1).permute(2, 0, 1)
        weights = (q * self.scale @ k.transpose(-2, -1) + bias).softmax(-1)
        y = self.out((weights @ v).transpose(1, 2).reshape(-1, s * s, c))
        y = y.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return self.head((x + self.mlp(x)).mean((1, 2)))


class Sums(nn.Module):
    """Attention written as Einstein sums over bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(8, 4, n)) for n in (3, 3, 5))
        self.o = nn.Parameter(torch.randn(4, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhe->bthe", x, w) for w in (self.q, self.k, self.v))
        weights = torch.einsum("bqhe,bkhe->bhqk", q, k).softmax(-1)
        return torch.einsum("bhqk,bkhe,hed->bqd", weights, v, self.o)


def encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """torch's own layers: `nn.MultiheadAttention` computes the width of a head from its own attributes."""
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(5, 12), layer, nn.Linear(12, 3)), (torch.randn(2, 4, 5),)


def tokens(model: type[nn.Module], **options: bool) -> Case:
    return lambda: (model(**options), (torch.randint(0, 20, (2, 6)),))


CASES: dict[str, Case] = {
    "gpt": tokens(Gpt),
    "gpt_by_shape": tokens(Gpt, by_shape=True),
    "llama": tokens(Llama),
    "llama_native_norm": tokens(Llama, native=True),
    "windows": alone(Windows, 2, 3, 8, 8),
    "sums": alone(Sums, 2, 4, 8),
    "encoder": encoder,
}
