"""The dense product under autocast with a weight that is rounded once, not at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.calls import autocast_to
from secateur.sparse.layers._state import copied_as


class RoundedLinear(nn.Linear):
    """An `nn.Linear` that keeps its rounded weight from one call without gradients to the next, where autocast makes it
    anew each time; same parameters, same state_dict.
    """

    @staticmethod
    def from_dense(linear: nn.Linear) -> RoundedLinear:
        """Copy a dense layer."""
        return copied_as(RoundedLinear, linear)

    def forward(self, input: Tensor) -> Tensor:
        """Compute x Wᵀ + b."""
        wanted = autocast_to(input)
        if wanted is None or torch.is_grad_enabled() or self.weight.is_inference():
            return nn.functional.linear(input, self.weight, self.bias)
        weight, bias = self._kept(wanted)
        return nn.functional.linear(input, weight, bias)

    def _kept(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        key = (dtype, *((p.data_ptr(), p._version, p.dtype) for p in parameters))
        kept: tuple[object, list[Tensor], object] | None = self.__dict__.get("_rounded")
        if kept is None or kept[0] != key:
            with torch.inference_mode(mode=False), torch.no_grad():
                made = [p.detach().to(dtype) for p in parameters]
                held = [p.detach() for p in parameters]  # so that nothing else comes to lie at their addresses
            kept = self.__dict__["_rounded"] = (key, made, held)
        return kept[1][0], kept[1][1] if self.bias is not None else None

    def train(self, mode: bool = True) -> RoundedLinear:
        """Set training or evaluation mode. What was rounded is rounded anew: `.data` is written without a trace."""
        self.__dict__.pop("_rounded", None)
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_rounded"}
