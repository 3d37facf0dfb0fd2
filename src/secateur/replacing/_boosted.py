"""A convolution that computes, for each input, only the channels that this input asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

# What copying a weight out of the others costs, of whole filters and of parts of them, in multiplications.
_ROW, _COLUMN = 4, 16  # copying a weight out of whole filters, and out of parts of them, in multiplications
#: ‖g‖₁ of each layer's last forward in training, with its graph; beside the modules, which are copied and pickled.
_PRICES: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


@dataclass
class Tally:
    """Multiplications of one layer, over all that it has seen: of a dense one, and those that were done."""

    dense: int = 0
    done: int = 0


class BoostedConv(nn.Module):
    """A convolution with its batch norm: y = π(x) ⊙ (BN(conv(x)) + β), without the norm's own scale.

    π(x) are the ⌈dC⌉ largest of g(x) = relu(φ·s(x) + ρ), zero elsewhere, s_c(x) the mean of |x| over channel c: chosen
    for each sample, ties by lower index. Put a ReLU behind it.

    In training, and wherever gradients are recorded, everything is computed and multiplied by π. In eval mode without
    gradients each sample is convolved by itself, by the filters that won and over the input channels that are not all
    zero, which is what the layer before has suppressed; where a layer has so few places that copying those weights out
    costs more than it saves, more is multiplied. Nothing is removed from storage.

    Attributes:
        conv: the convolution.
        norm: its batch norm, without scale and shift.
        shift: β.
        saliency: φ and ρ.
        winners: ⌈dC⌉; in the `state_dict`.
    """

    winners: Tensor

    def __init__(self, conv: _ConvNd, norm: _BatchNorm) -> None:
        super().__init__()
        weight = conv.weight
        self.conv, self.norm, self.tally = conv, norm, None
        self.shift = nn.Parameter(weight.new_zeros(len(weight)))
        self.saliency = nn.Linear(weight.shape[1], len(weight), device=weight.device, dtype=weight.dtype)
        self.register_buffer("winners", torch.tensor(len(weight), device=weight.device))
        self.tally: Tally | None

    @torch.no_grad()
    def begin(self, scale: Tensor, shift: Tensor) -> None:
        """Compute at d = 1 what a norm with this γ and shift did: φ = 0, ρ = |γ|, β = shift/|γ|, signs in filters."""
        dead = scale == 0
        sign = torch.where(dead, 0.0, scale.sign())
        self.conv.weight.mul_(sign.reshape(-1, *[1] * (self.conv.weight.dim() - 1)))
        if self.conv.bias is not None:
            self.conv.bias.mul_(sign)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.norm.running_mean.mul_(sign)
        self.norm.running_var[dead] = 1
        rho = torch.where(dead, torch.ones_like(scale), scale.abs())
        self.saliency.weight.zero_()
        self.saliency.bias.copy_(rho)
        self.shift.copy_(shift / rho)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g(x) [batch, C], which of them win, by index [batch, ⌈dC⌉], and s(x) [batch, inputs]."""
        size = x.abs().flatten(2).mean(2)
        g = torch.relu(self.saliency(size))
        order = g.sort(dim=1, descending=True, stable=True).indices
        return g, order[:, : int(self.winners)], size

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, *places] → [batch, C, *places]."""
        g, won, size = self.gates(x)
        if not self.training and not torch.is_grad_enabled():
            return self._skipping(x, g, won, size)
        if self.training:
            _PRICES[self] = g.sum()
        pi = g * torch.zeros_like(g).scatter_(1, won, 1)
        y = self.norm(self.conv(x)) + _along(self.shift, x)
        return y * pi.reshape(*pi.shape, *[1] * (x.dim() - 2))

    def _skipping(self, x: Tensor, g: Tensor, won: Tensor, size: Tensor) -> Tensor:
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        factor = torch.rsqrt(self.norm.running_var + self.norm.eps)
        offset = self.shift - self.norm.running_mean * factor
        if self.conv.bias is not None:
            offset = offset + self.conv.bias * factor
        order = won.sort(dim=1).values
        scale, shift = g * factor, g * offset
        live, used = g.gather(1, order) > 0, size > 0
        made: Tensor | None = None
        for index, (all_live, all_used) in enumerate(zip(live.all(1).tolist(), used.all(1).tolist(), strict=True)):
            rows = order[index] if all_live else order[index][live[index]]
            columns = order.new_empty(x.shape[1]) if all_used else used[index].nonzero().flatten()  # a number
            rows, columns = (each if len(each) else each.new_zeros(1) for each in (rows, columns))  # 0 times something
            part = self._convolved(x[index : index + 1], rows, columns)[0]
            made = x.new_zeros(len(x), len(self.shift), *part.shape[1:]) if made is None else made
            each = (-1, *[1] * (part.dim() - 1))
            made[index, rows] = torch.addcmul(shift[index, rows].view(each), part, scale[index, rows].view(each))
        return x.new_zeros(0, len(self.shift), *x.shape[2:]) if made is None else made

    def _convolved(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The outputs `rows`. Where copying weights out would cost more than it saves, more is multiplied."""
        weight = self.conv.weight
        places = math.prod(x.shape[2:]) // math.prod(self.conv.stride)
        by_rows = places * (len(weight) - len(rows)) > _ROW * len(rows)
        if by_rows:  # first: whole filters lie in one piece
            weight = weight.index_select(0, rows)
        if places * (x.shape[1] - len(columns)) > _COLUMN * len(columns):
            x, weight = x.index_select(1, columns), weight.index_select(1, columns)
        made = self.conv._conv_forward(x, weight, None)
        if self.tally is not None:
            each = math.prod(made.shape[2:])
            self.tally.dense += each * self.conv.weight.numel()
            self.tally.done += each * weight.numel() + self.saliency.weight.numel()
        return made if by_rows else made.index_select(1, rows)

    def extra_repr(self) -> str:
        """How many channels win."""
        return f"winners={int(self.winners)} of {len(self.shift)}"


def _along(values: Tensor, x: Tensor) -> Tensor:
    """One number per channel, shaped to multiply [batch, channels, *places]."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def price_of(layer: BoostedConv) -> Tensor | None:
    """‖g‖₁ of the layer's last forward in training, summed over the batch."""
    return _PRICES.get(layer)
