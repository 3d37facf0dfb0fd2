"""Forwards of several models, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from torch import nn

from secateur.costing import Call, clock_of, forward, serving
from secateur.turns import interleaved

__all__ = ["sampled", "size"]

_ROUNDS = (8, 1000)


def sampled(models: Mapping[str, nn.Module], call: Call, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of forwards of each model, as many of each, taken in turns A B C, A B C, …

    Args:
        models: they run in eval mode without gradients, and are as before afterwards.
        call: what they are called with.
        seconds: about how long all of it may take.
    """
    found: list[list[float]] = []

    def keep(times: list[float]) -> float:
        found.append(times)
        return median(times)

    with serving(*models.values()):
        ways = {name: forward(model, call) for name, model in models.items()}
        clock = clock_of(next(iter(models.values())))
        order = interleaved(ways, seconds=seconds, rounds=_ROUNDS, statistic=keep, clock=clock)
    return dict(zip(order, found, strict=True))


def size(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, and of what says where surviving weights lie."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    indices = 0
    for module in model.modules():
        plans = [getattr(module, "plan", None), *(getattr(module, "plans", None) or ())]
        indices += sum(number for each in plans if isinstance(number := getattr(each, "index_bytes", None), int))
    return indices + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
