"""Choose between dense and sparse by timing the layer itself: its own shape, batch, mask, mode and threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.calls import BlocksTimed
from secateur.sparse.convert._inputs import Use
from secateur.sparse.layers import Choosing, OneDnnLinear, RoundedLinear, SparseLinear, onednn_available
from secateur.sparse.timing import Verdict, decide, remembered_verdict
from secateur.sparse.transformers import SparseAttention


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


def timed(dense: nn.Module, sparse: Any, use: Use) -> Timed:
    """Time a dense layer, in the best way that torch has for it, against its sparse form.

    Args:
        dense: the layer.
        sparse: what would stand in its place.
        use: at what it is timed.
    """
    if use.reduced:
        for part in sparse.modules():
            if isinstance(part, Choosing):  # it has several ways itself
                part.let_choose(settled=None)
    found = _blocks(sparse, use) if use.reduced else None
    through = "" if found is None else f", {found.name}"
    kind = f"{_named(dense)}, {_pattern(sparse)}, {use}{through}"
    verdict, best = remembered_verdict(kind, lambda: _measure(dense, sparse, use))
    return Timed(verdict, best, f"{use}{'' if found is None else f', {found}'}")


def _blocks(sparse: Any, use: Use) -> BlocksTimed | None:
    """Decide how a linear layer's blocks of 64 × 2 are multiplied in bfloat16, by timing it; None of other layers."""
    if not isinstance(sparse, SparseLinear) or torch.bfloat16 not in (use.autocast or use.dtype,):
        return None
    x = torch.rand(use.shape, generator=torch.Generator().manual_seed(0)).to(use.dtype)
    if use.training:
        return sparse.store_for_training(x.requires_grad_(not use.first))
    return sparse.blocks_at(x)


def _pattern(sparse: Any) -> str:
    """Say how much a mask keeps, and in how many rows and columns: what decides about the kernels' time."""
    plans = _plans(sparse)
    said = "; ".join(plan.spread for plan in plans)
    return f"density {said}" + (", blocks" if getattr(plans[0], "blocks", False) else "")


def _plans(sparse: Any) -> list[Any]:
    if isinstance(sparse, SparseAttention):
        last = sparse.out_proj
        return [*sparse.plans.values(), *([last.plan] if isinstance(last, SparseLinear) else [])]
    return [sparse.plan] if hasattr(sparse, "plan") else [part for plan in sparse.plans for part in plan.parts]


def _named(dense: nn.Module) -> str:
    """Name a layer with all that decides about its time; what torch and others print of some leaves their sizes out."""
    text = " ".join(str(dense).split())
    if type(dense).__module__.startswith("torch.") and not isinstance(dense, nn.MultiheadAttention):
        return text
    sizes = ", ".join(f"{name} {tuple(p.shape)}" for name, p in dense.named_parameters())
    switches = [f"{name} {getattr(dense, name, None)}" for name in ("num_heads", "batch_first", "add_zero_attn")]
    return f"{text} of {sizes}, {', '.join(switches)}"


def dense_way(dense: nn.Module, use: Use) -> nn.Module | None:
    """Return a copy of a layer that computes as fast as torch can here; None where that is as it is."""
    ways = ways_of(dense, use)
    found: nn.Module | None = None
    for name, way in ways.items():
        kind = f"{dense}, {name} for torch, {use}"
        compare = partial(_compare, dense if found is None else found, way, use)
        verdict, _ = remembered_verdict(kind, lambda compare=compare, name=name: (compare(), name))
        found = way if verdict.second_is_faster else found
    return found


def crashes_channels_last(module: nn.Module) -> bool:
    """Whether the backward of this layer with channels last may write past its memory.

    It does in torch 2.13 (oneDNN, CPU): Conv2d(8, 336, 1, stride=2) on one image of 56 × 56 ends the process.
    """
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1 and max(module.stride) > 1


def ways_of(dense: nn.Module, use: Use) -> dict[str, nn.Module]:
    """Return the other dense ways that torch has for a layer, by name."""
    if type(dense) is nn.Linear and use.autocast is not None:
        return {} if use.training else {"a weight rounded once": RoundedLinear.from_dense(dense)}
    if type(dense) is nn.Linear and onednn_available() and not use.reduced:
        return {"oneDNN": OneDnnLinear.from_dense(dense)}
    if isinstance(dense, nn.Conv2d) and not (use.training and crashes_channels_last(dense)):
        return {"channels-last": copy.deepcopy(dense).to(memory_format=torch.channels_last)}  # type: ignore[call-overload]
    return {}


def _measure(dense: nn.Module, sparse: nn.Module, use: Use) -> tuple[Verdict, str]:
    best, layer = "torch", dense
    for name, way in ways_of(dense, use).items():
        if _compare(layer, way, use).second_is_faster:
            best, layer = name, way
    return _compare(layer, sparse, use), best


def _compare(first: nn.Module, second: nn.Module, use: Use) -> Verdict:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(use.shape, generator=generator).to(use.dtype)
    if isinstance(first, nn.MultiheadAttention):
        key = None if use.keys is None else torch.rand(use.keys, generator=generator).to(use.dtype)
        value = None if use.values is None else torch.rand(use.values, generator=generator).to(use.dtype)
        first, second = (_Attending(module, key, value, use.weights) for module in (first, second))
    return decide(runner(first, x, use), runner(second, x, use))


class _Attending(nn.Module):
    """Attention as it is used, a module of one input: the queries."""

    def __init__(self, attention: nn.Module, key: Tensor | None, value: Tensor | None, weights: bool) -> None:
        super().__init__()
        self.attention, self.key, self.value, self.weights = attention, key, value, weights

    def forward(self, x: Tensor) -> Tensor:
        key = x if self.key is None else self.key
        return self.attention(x, key, key if self.value is None else self.value, need_weights=self.weights)[0]


def _time(seconds: float) -> str:
    """Write a time for people.

    >>> _time(1.234e-3), _time(2.5e-6)
    ('1.23 ms', '2.5 µs')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


def runner(module: nn.Module, x: Tensor, use: Use) -> Callable[[], object]:
    """Return a call of one pass of a module on a tensor: forward, and backward too in training."""
    return partial(_train, module, x, not use.first) if use.training else partial(_infer, module, x)


def _infer(module: Any, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def _train(module: Any, x: Tensor, differentiated: bool) -> None:
    inside = x.detach().requires_grad_(differentiated)
    if isinstance(module, SparseLinear | SparseAttention):
        module.train(module.training)  # what was rounded is rounded anew, as at each step that changes the values
    y = module(inside)
    y = y if isinstance(y, Tensor) else y[0]
    wanted = [*([inside] if differentiated else []), *(p for p in module.parameters() if p.requires_grad)]
    if wanted:
        torch.autograd.grad(y, wanted, torch.ones_like(y))
