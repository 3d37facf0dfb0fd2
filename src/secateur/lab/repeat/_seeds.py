"""One seed, many independent streams: each random choice of a run has its name and can be drawn again."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *path: str | int) -> int:
    """Return the seed of a named stream: a number below 2⁶³ that depends on `seed` and every part of `path`.

    SHA-256, so that it is the same on every machine and in every version, and so that the streams of
    neighbouring seeds or steps have nothing in common.

    Args:
        seed: the seed of the run.
        path: what the stream is for, from the general to the particular.

    >>> derive(0, "order", 3) == derive(0, "order", 3), derive(0, "order", 3) == derive(0, "order", 4)
    (True, False)
    """
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a fresh CPU generator for a named stream (see `derive`); the global ones are not touched."""
    return torch.Generator().manual_seed(derive(seed, *path))


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Return what was drawn on the CPU on `device`, without waiting for what a GPU still computes.

    An ordinary copy to a GPU first waits until all earlier steps are done; one from pinned memory stands in line.
    """
    if device.type == "cuda" and drawn.device.type == "cpu":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)
