"""Zeros over the pruned entries of a tensor, and counts of flags, at the speed of memory where the kernels fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.types import Bool

_ENTRIES_PER_THREAD = 1 << 16  # below this, waking a second thread costs more than it saves


def zero_(tensor: Tensor, flags: Bool[Tensor, "..."], *, when: bool = True) -> None:
    """Write a zero into `tensor`, in place, wherever the flag is `when`: `tensor.masked_fill_(flags == when, 0)`.

    The shapes must be equal. NaN and infinity are overwritten too.
    """
    native = door.native
    fits = flags.dtype is torch.bool and tensor.shape == flags.shape and tensor.itemsize in (2, 4, 8)
    if native is None or not fits or not _plain(tensor) or not _plain(flags):
        tensor.masked_fill_(flags if when else ~flags, 0)
        return
    size = tensor.numel()
    native.zero(tensor.data_ptr(), size, flags.data_ptr(), flags.numel(), when, tensor.itemsize, _threads_for(size))
    torch.autograd.graph.increment_version(tensor)  # autograd must notice, as after any write in place


def _threads_for(size: int) -> int:
    return min(torch.get_num_threads(), 1 + size // _ENTRIES_PER_THREAD)


def _plain(tensor: Tensor) -> bool:
    """Whether the tensor is memory that a kernel may write: no subclass, no trace, no other device."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not torch.compiler.is_compiling()
    )


def all_true(bits: Tensor) -> bool:
    """Whether every entry of a boolean tensor is True: at once for one value expanded, else in one quick pass."""
    if bits.numel() and not any(bits.stride()):
        return bool(bits[(0,) * bits.dim()])
    return count_true(bits) == bits.numel()


def count_true(bits: Bool[Tensor, "..."]) -> int:
    """How many entries of a boolean tensor are True, at the speed of memory where the compiled kernels fit."""
    native = door.native
    if native is None or not _plain(bits):
        return int(bits.count_nonzero())
    return native.count(bits.data_ptr(), bits.numel(), _threads_for(bits.numel()))
