"""Choose between dense and sparse by timing the layer itself: its own shape, batch, mask, mode and threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.layers import OneDnnLinear, onednn_available
from secateur.sparse.timing import Verdict, decide, remembered_verdict


@dataclass(frozen=True)
class Timed:
    """What timing one layer found: the verdict, dense first; the dense way that was best; and at what it was timed."""

    verdict: Verdict
    dense: str
    where: str

    @property
    def sparse_wins(self) -> bool:
        """Whether the sparse form is faster for certain; else the layer stays dense."""
        return self.verdict.second_is_faster

    def __str__(self) -> str:
        way = "" if self.dense == "torch" else f" through {self.dense}"
        text = f"{_time(self.verdict.second)} sparse, {_time(self.verdict.first)} dense{way}, {self.where}"
        return text if self.verdict.certain else f"{text}; too close to tell apart"


def timed(dense: nn.Module, sparse: Any, shape: tuple[int, ...], *, training: bool) -> Timed:
    """Time a dense layer, in the best way that torch has for it, against its sparse form.

    Args:
        dense: the layer.
        sparse: what would stand in its place.
        shape: of its input.
        training: forward and backward, or the forward pass alone.
    """
    mode = "training" if training else "inference"
    where = f"{mode} at {' × '.join(map(str, shape))}"
    density = sparse.plan.density if hasattr(sparse, "plan") else sparse.density
    blocks = ", blocks" if getattr(getattr(sparse, "plan", None), "blocks", False) else ""
    kind = f"{dense}, density {density:.3g}{blocks}, {where}"
    verdict, best = remembered_verdict(kind, lambda: _measure(dense, sparse, shape, training))
    return Timed(verdict, best, where)


def _measure(dense: nn.Module, sparse: nn.Module, shape: tuple[int, ...], training: bool) -> tuple[Verdict, str]:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last) if isinstance(dense, nn.Conv2d) and x.dim() == 4 else x
    ways: dict[str, Callable[[], object]] = {"torch": runner(dense, x, training)}
    if type(dense) is nn.Linear and onednn_available() and min(dense.weight.shape) >= 64:
        ways["oneDNN"] = runner(OneDnnLinear.from_dense(dense), x, training)
    if last is not x:
        ways["channels-last"] = runner(copy.deepcopy(dense).to(memory_format=torch.channels_last), last, training)  # type: ignore[call-overload]
    best = "torch"
    for name in list(ways)[1:]:
        best = name if decide(ways[best], ways[name], seconds=0.15).second_is_faster else best
    return decide(ways[best], runner(sparse, x, training)), best


def _time(seconds: float) -> str:
    """Write a time for people.

    >>> _time(1.234e-3), _time(2.5e-6)
    ('1.23 ms', '2.5 µs')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


def runner(module: nn.Module, x: Tensor, training: bool) -> Callable[[], object]:
    """Return a call of one pass of a module on a tensor: forward, and backward too in training."""
    return partial(_train, module, [x]) if training else partial(_infer, module, [x])


def _infer(module: Any, inputs: Sequence[Tensor]) -> None:
    with torch.no_grad():
        module(*inputs)


def _train(module: Any, inputs: Sequence[Tensor]) -> None:
    x = [i.detach().requires_grad_() for i in inputs]
    y = module(*x)
    y = y if isinstance(y, Tensor) else y[0]
    torch.autograd.grad(y, [*x, *(p for p in module.parameters() if p.requires_grad)], torch.ones_like(y))
