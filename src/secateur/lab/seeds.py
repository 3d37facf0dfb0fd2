"""One seed, many independent streams: each random choice of a run has its name and can be drawn again."""

from __future__ import annotations

import hashlib

import torch


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
