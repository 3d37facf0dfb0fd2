"""Whether a tensor's memory is known to nobody else, so that what is made of it may be made in it."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

# How many tensors and others hold a storage; torch has it for CUDA graphs and does not promise it.
_uses: Any = getattr(torch._C, "_storage_Use_Count", None)


def held_alone(holder: dict[str, Tensor], name: str) -> bool:
    """Whether `holder[name]` is the only way to its memory, and fills it: whoever takes it out may overwrite it.

    False for a view or whatever has one, an expanded tensor, a buffer that autograd gave to two parameters, anything
    that a hook, a collector, an optimizer or a variable holds as well, memory of numpy's or of another process, and
    on an accelerator, where torch does not say whether other processes see it, and wherever it cannot be told.
    """
    return _uses is not None and _holders(holder, name) == _OF_ONE and _is_all_of_its_memory(holder[name])


def _holders(holder: dict[str, Tensor], name: str) -> tuple[int, int]:
    """How many references there are to the tensor, and how many to its storage; those of these lines count as well."""
    tensor = holder[name]
    return sys.getrefcount(tensor), 0 if _uses is None else _uses(tensor.untyped_storage()._cdata)


_OF_ONE = _holders({"": torch.empty(1)}, "")  # counted in the same way for a tensor that nobody else can hold


def _is_all_of_its_memory(tensor: Tensor) -> bool:
    plain = type(tensor) is Tensor and tensor.is_contiguous() and not tensor.requires_grad and not tensor.is_neg()
    storage = tensor.untyped_storage()
    # What cannot be resized is memory of somebody else's: an array, a file.
    own = storage.resizable() and not tensor.is_shared()
    return plain and own and storage.nbytes() == tensor.numel() * tensor.itemsize
