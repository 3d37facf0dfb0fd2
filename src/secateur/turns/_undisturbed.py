"""Timing a model leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give buffers and torch's random state their values back: normalisations count what they see, dropout draws."""
    before = {buffer: buffer.clone() for module in modules for buffer in module.buffers()}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before.items():
                buffer.copy_(value)
