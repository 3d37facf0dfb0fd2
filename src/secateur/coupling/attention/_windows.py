"""The windows of torchvision's Swin transformers, with any number of heads of any width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.coupling.attention._whole import Whole

__all__ = ["OwnWindows", "takes_windows"]

_SETTINGS = ("window_size", "shift_size", "num_heads", "attention_dropout", "dropout")
_PARTS = ("qkv", "proj", "relative_position_index")
_LARGEST_SCALE = math.log(100.0)


class OwnWindows(Whole, nn.Module):
    """Attention within shifted windows, whose heads have a width that is an attribute.

    Per window softmax(scale · q kᵀ + bias) v, with a bias for each relative position and head, and minus infinity
    between parts that were not neighbours before the shift. Of the second version q and k are normalised, the scale
    is exp(min(learned, log 100)), the bias is 16 σ(perceptron of positions), and keys have no bias.

    Made by `hold_own_widths` with the tensors of torchvision's modules, and left in a smaller model where heads went.

    Attributes:
        num_heads: how many heads there are.
        head_dim: the width of each.
        scale: what the products are multiplied by in the first version.
        was: the class before.
        whole: number and width of heads, and of the stream, that it began with.

    Source: Liu et al., arXiv 2103.14030, §3.2, and arXiv 2111.09883, §3.2 and 3.3.
    """

    added = ("head_dim", "scale")
    num_heads: int
    head_dim: int
    scale: float
    window_size: list[int]
    shift_size: list[int]
    qkv: nn.Linear
    proj: nn.Linear
    attention_dropout: float
    dropout: float
    relative_position_index: Tensor

    @staticmethod
    def begin(module: OwnWindows, before: type[nn.Module]) -> None:
        """Give a module that was of another class what this one needs."""
        module.was, module.head_dim = before, module.qkv.out_features // (3 * module.num_heads)
        module.scale = module.head_dim**-0.5
        module.whole = module.numbers()

    def numbers(self) -> tuple[int, ...]:
        """Number and width of heads, and the width of the stream."""
        return int(self.num_heads), int(self.head_dim), self.proj.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: [example, row, column, channel].
        """
        high, wide = self.window_size
        _, rows, columns, _ = x.shape
        x = F.pad(x, (0, 0, 0, -columns % wide, 0, -rows % high))
        example, padded_rows, padded_columns, _ = x.shape
        # A window as large as the map is not shifted.
        shift = [
            0 if window >= size else by
            for window, size, by in zip((high, wide), (padded_rows, padded_columns), self.shift_size, strict=True)
        ]
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        grid = (padded_rows // high, padded_columns // wide)
        windows = x.unflatten(2, (grid[1], wide)).unflatten(1, (grid[0], high)).transpose(2, 3)
        mixed = self._attended(windows.flatten(3, 4).flatten(0, 2), _apart(x, shift, (high, wide)))
        out = mixed.unflatten(0, (example, *grid)).unflatten(3, (high, wide)).transpose(2, 3)
        out = out.flatten(3, 4).flatten(1, 2)
        if any(shift):
            out = torch.roll(out, (shift[0], shift[1]), (1, 2))
        return out[:, :rows, :columns]

    def _attended(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Attend within each window: x is [window, position, channel]."""
        qkv = F.linear(x, self.qkv.weight, self._bias_of_qkv()).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        learned = self._parameters.get("logit_scale")
        if learned is None:
            products = (q * self.scale) @ k.transpose(-2, -1)
        else:
            products = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            products = products * learned.clamp(max=_LARGEST_SCALE).exp()
        products = products + self._position_bias()
        if apart is not None:
            count = apart.shape[0]
            products = (products.unflatten(0, (-1, count)) + apart[None, :, None]).flatten(0, 1)
        weights = F.dropout(products.softmax(-1), self.attention_dropout, self.training)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return F.dropout(self.proj(mixed), self.dropout, self.training)

    def _bias_of_qkv(self) -> Tensor | None:
        """The bias, in the second version without that of the keys."""
        bias = self.qkv.bias
        if "logit_scale" not in self._parameters or bias is None:
            return bias
        q, k, v = bias.unflatten(0, (3, -1)).unbind(0)
        return torch.cat([q, torch.zeros_like(k), v])

    def _position_bias(self) -> Tensor:
        """What each head adds for each pair of positions: [1, head, position, position]."""
        area = self.window_size[0] * self.window_size[1]
        if "cpb_mlp" in self._modules:
            table = self.get_submodule("cpb_mlp")(self.get_buffer("relative_coords_table")).flatten(0, -2)
        else:
            table = self.get_parameter("relative_position_bias_table")
        bias = table[self.relative_position_index].unflatten(0, (area, area)).permute(2, 0, 1)
        return (16 * bias.sigmoid() if "cpb_mlp" in self._modules else bias)[None]


def _apart(x: Tensor, shift: list[int], window: tuple[int, int]) -> Tensor | None:
    """What is added between positions: minus one hundred, as torchvision has it, where they were not neighbours.

    Args:
        x: the padded map.
        shift: by how much it was rolled.
        window: the size of a window.

    Returns:
        [window, position, position]; None where nothing was rolled.
    """
    if not any(shift):
        return None
    sides = []
    for size, side, by in zip(x.shape[1:3], window, shift, strict=True):
        part = torch.zeros(size, dtype=x.dtype, device=x.device)
        if by:
            part[-side:-by] = 1
            part[-by:] = 2
        sides.append(part)
    parts = sides[0][:, None] * 3 + sides[1][None]
    inside = (
        parts.unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0])).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    )
    return (inside[:, None, :] != inside[:, :, None]).to(x.dtype) * -100.0


def takes_windows(module: nn.Module) -> bool:
    """Whether the module has what torchvision's has."""
    return all(hasattr(module, name) for name in (*_SETTINGS, *_PARTS))
