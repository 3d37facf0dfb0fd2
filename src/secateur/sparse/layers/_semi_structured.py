"""Linear layers on CUDA: dense, or 2:4 on the sparse tensor cores, whichever the device is measured to run faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.types import Bool, Float
from secateur.sparse.calls import looked_into
from secateur.sparse.layers._state import fill

_ROUNDS, _CALLS = 7, 20

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class SparseDevice:
    """What the choice asks of a device.

    Attributes:
        why_not: the reason why no layer can run 2:4 on it, or None.
        compress: a dense 2:4 weight → its compressed form, which `torch.nn.functional.linear` takes; raises
            RuntimeError, ValueError or NotImplementedError for a type or shape that it does not take.
        measure: (dense layer, compressed weight, samples) → median seconds of the dense and of the sparse product.
    """

    why_not: str | None
    compress: Callable[[Tensor], Tensor]
    measure: Callable[[nn.Linear, Tensor, int], tuple[float, float]]


class SemiStructuredLinear(nn.Linear):
    """A linear layer that multiplies by its compressed 2:4 weight in evaluation without gradients, else densely.

    Parameters and state_dict are those of `nn.Linear`. The compressed copy is made when it is first needed, and anew
    when the weight has changed.
    """

    compress: Callable[[Tensor], Tensor]
    _packed: tuple[int, int, Tensor] | None = None

    @staticmethod
    def from_dense(linear: nn.Linear, mask: Bool[Tensor, "rows columns"], device: SparseDevice) -> SemiStructuredLinear:
        """Make one of a dense layer's weights, zero where pruned, as copies."""
        new = SemiStructuredLinear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        weight = linear.weight.detach() * mask.to(linear.weight.device)
        new.compress = device.compress
        return fill(new, weight, linear, trains=linear.weight.requires_grad)

    def forward(self, input: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """Multiply: [..., columns] → [..., rows]."""
        dense = self.training or torch.is_grad_enabled() or looked_into(input)
        if dense or input.dtype is not self.weight.dtype or not input.numel():
            return super().forward(input)
        return nn.functional.linear(input, self.compressed(), self.bias)

    def train(self, mode: bool = True) -> SemiStructuredLinear:
        """Set training or evaluation mode. What was compressed is made anew: `.data` is written without a trace."""
        if mode or not self.training:
            self._packed = None
        super().train(mode)
        return self

    def compressed(self) -> Tensor:
        """Return the compressed weight, made anew if the weight has changed."""
        now = (id(self.weight), self.weight._version)
        if self._packed is None or self._packed[:2] != now:
            if not is_two_of_four(self.weight != 0):
                raise ValueError(
                    "a weight that runs 2:4 has more than 2 of 4 neighbouring inputs different from zero. Hold the "
                    "masks while training (secateur.hold), or apply them again (masks.apply_)."
                )
            self._packed = (*now, self.compress(self.weight.detach()))
        return self._packed[2]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}


def is_two_of_four(mask: Bool[Tensor, "rows columns"]) -> bool:
    """Tell whether at most 2 of every 4 neighbouring inputs survive, as sparse tensor cores want it.

    >>> is_two_of_four(torch.tensor([[True, False, True, False]]))
    True
    >>> is_two_of_four(torch.tensor([[True, False, True, True]]))
    False
    """
    rows, columns = mask.shape
    return columns % 4 == 0 and columns > 0 and int(mask.reshape(rows, -1, 4).sum(2).amax()) <= 2


def this_device(device: torch.device) -> SparseDevice:
    """Describe a CUDA device of this machine, or say why it runs nothing 2:4."""
    return SparseDevice(_why_not(device), torch.sparse.to_sparse_semi_structured, _measure)


def _why_not(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.version.hip is not None:
        return "torch is built for ROCm, and 2:4 was looked into on CUDA only"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor} has no sparse tensor cores, from 8.0 on there are"
    return None


@torch.no_grad()
def _measure(linear: nn.Linear, packed: Tensor, batch: int) -> tuple[float, float]:
    """Time both products in turn; medians of rounds, so that neither a busy moment nor the clock decides."""
    x = torch.ones(batch, linear.in_features, dtype=linear.weight.dtype, device=linear.weight.device)
    times: tuple[list[float], list[float]] = ([], [])
    for done in range(_ROUNDS + 1):
        for found, weight in zip(times, (linear.weight.detach(), packed), strict=True):
            seconds = _seconds(nn.functional.linear, x, weight, linear.bias)
            if done:  # the first round loads libraries
                found.append(seconds)
    return median(times[0]), median(times[1])


def _seconds(product: Product, x: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    with torch.cuda.device(x.device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(_CALLS):
            product(x, weight, bias)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / _CALLS
