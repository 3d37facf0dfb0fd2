"""What the kernels take of torch tensors, and how they get it: as addresses and lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base import door

_LARGE = 1 << 22  # bytes: some large pages fit for certain
_EMPTY = 64  # where a tensor without numbers lies: anywhere, but not nowhere


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether the kernels take these tensors: 32-bit floats on the CPU, and at least one sample of `x`."""
    for tensor in others:  # a plain loop: this runs at every call, between kernels that take microseconds
        if tensor is not None and (tensor.dtype is not torch.float32 or not tensor.is_cpu):
            return False
    return x.dtype is torch.float32 and x.is_cpu and x.layout is torch.strided and x.numel() > 0


def addresses(*tensors: Tensor | None) -> list[int]:
    """Return where each tensor's numbers begin and how many there are, one after the other; 0, 0 stands for none.

    The kernels compare the lengths with those that they read or write. The tensors must be contiguous.
    """
    found: list[int] = []
    for tensor in tensors:
        if tensor is None:
            found += (0, 0)
        else:
            length = tensor.numel()
            found += (tensor.data_ptr() if length else _EMPTY, length)
    return found


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors with their numbers in a row. Keep them as long as their addresses are in use."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def plain(tensor: Tensor) -> Tensor:
    """Return the tensor as numbers in a row, none of which waits for its sign to be turned."""
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).contiguous()


def fresh(*shape: int) -> Tensor:
    """Return float32 memory on the CPU for a result. Large ones lie in large pages where the system has them: memory
    that is new at each call is mapped at each call, which takes longer than some of the products that fill it.
    """
    made = torch.empty(shape, dtype=torch.float32, device="cpu")
    if made.nbytes >= _LARGE and door.native is not None:
        door.native.ask_for_large_pages(made.data_ptr(), made.nbytes)
    return made
