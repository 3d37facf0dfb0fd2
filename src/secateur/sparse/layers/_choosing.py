"""Choose at a first call: dense or through which kernels, on the very input that came, once for each kind of call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.timing import decide, undisturbed

_SECONDS = 0.2  # at most, for a choice that is close; one that is not takes a few calls


class Choosing:
    """A module that can compute in several ways and takes the fastest one, found out when it first matters.

    `let_choose` turns it on. A choice holds for a mode (with gradients or without) and for inputs of about the same
    size, within a factor of two; it is not saved.
    """

    def let_choose(self, *, settled: bool | None) -> None:
        """Choose at first calls from now on.

        Args:
            settled: the mode for which the kernels have been timed already, and won: True with gradients, False
                without; None: neither. Calls under autocast are never settled.
        """
        self.__dict__["_choices"], self.__dict__["_settled"] = {}, settled
        self.__dict__.setdefault("_kernels", {})  # not anew: what a report has told stays so

    def _apart_is_faster(
        self, place: object, x: Tensor, together: Callable[[Tensor], Any], apart: Callable[[Tensor], Any], owner: Any
    ) -> bool:
        """Tell whether the other way is faster than the kernels for this call, timing both if it is the first.

        Args:
            place: what else tells calls apart.
            x: the input.
            together: through the kernels.
            apart: the other way; the two compute the same.
            owner: the modules whose parameters are differentiated and whose buffers must be as found.
        """
        trains = torch.is_grad_enabled()
        if "_choices" not in self.__dict__ or trains is self.__dict__["_settled"]:
            return False
        return self._fastest(place, x, (together, apart), owner) == 1

    def _fastest(self, place: object, x: Tensor, ways: Sequence[Callable[[Tensor], Any]], owner: Any) -> int:
        """Return which way is the fastest for this call, timing them if it is the first; the first one if it does not
        choose."""
        choices: dict[object, int] | None = self.__dict__.get("_choices")
        if choices is None or torch.compiler.is_compiling():
            return 0
        key = (place, torch.is_grad_enabled(), x.numel().bit_length())
        if key not in choices:
            choices[key] = 0  # a call within the timing must not time
            for other in range(1, len(ways)):
                if _second_is_faster(ways[choices[key]], ways[other], x, owner):
                    choices[key] = other
        return choices[key]


def _second_is_faster(
    first: Callable[[Tensor], Any], second: Callable[[Tensor], Any], x: Tensor, owner: Iterable[nn.Module]
) -> bool:
    modules = list(owner)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    sample = x.detach()

    def pass_through(way: Callable[[Tensor], Any]) -> None:
        if not torch.is_grad_enabled():
            way(sample)
            return
        for module in modules:
            if isinstance(module, Choosing) and not module._modules:  # type: ignore[attr-defined]
                module.train(module.training)  # type: ignore[attr-defined]  # rounded anew, as at each step
        inside = sample.clone().requires_grad_(x.requires_grad)
        y = way(inside)
        y = y if isinstance(y, Tensor) else y[0]
        wanted = [*parameters, *([inside] if x.requires_grad else [])]
        if wanted and y.requires_grad:
            torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)

    with undisturbed(modules):
        verdict = decide(lambda: pass_through(first), lambda: pass_through(second), seconds=_SECONDS)
    return verdict.second_is_faster
