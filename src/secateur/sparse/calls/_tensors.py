"""What the kernels take of torch tensors, and how they get it: as addresses."""

from __future__ import annotations

import torch
from torch import Tensor


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether the kernels take these tensors: 32-bit floats on the CPU, and at least one sample of `x`."""
    for tensor in others:  # a plain loop: this runs at every call, between kernels that take microseconds
        if tensor is not None and (tensor.dtype is not torch.float32 or not tensor.is_cpu):
            return False
    return x.dtype is torch.float32 and x.is_cpu and x.layout is torch.strided and x.numel() > 0


def addresses(*tensors: Tensor | None) -> list[int]:
    """Return where each tensor's numbers begin; 0 stands for none."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors with their numbers in a row. Keep them as long as their addresses are in use."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]
