"""What the kernels take of torch tensors, and how they get it: as addresses and lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from secateur._base import door

_CAST = (torch.float32, torch.bfloat16, torch.float16)  # what autocast casts
_LARGE = 1 << 22  # bytes: some large pages fit for certain
_EMPTY = 64  # where a tensor without numbers lies: anywhere, but not nowhere


def are_float32(*tensors: Tensor | None) -> bool:
    """Tell whether all of these that are there are 32-bit floats on the CPU.

    >>> are_float32(torch.ones(2), None), are_float32(torch.ones(2).double())
    (True, False)
    """
    for tensor in tensors:  # a plain loop: this runs at every call, between kernels that take microseconds
        if tensor is not None and (tensor.dtype is not torch.float32 or not tensor.is_cpu):
            return False
    return True


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether the kernels for float32 take these tensors: 32-bit floats on the CPU, at least one sample of `x`,
    and no autocast that wants less of them.
    """
    if not are_float32(*others):
        return False
    plain = x.dtype is torch.float32 and x.is_cpu and x.layout is torch.strided and x.numel() > 0
    return plain and not torch.is_autocast_enabled("cpu")


def autocast_to(x: Tensor) -> torch.dtype | None:
    """Return the type in which autocast wants products with `x`; None where it is off, or leaves `x` as it is.

    >>> x = torch.ones(2)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_to(x), autocast_to(x.double()), fits(x)
    (torch.bfloat16, None, False)
    """
    if not torch.is_autocast_enabled("cpu") or not x.is_cpu or x.dtype not in _CAST:
        return None
    return torch.get_autocast_dtype("cpu")


def in_float32(way: Callable[[Tensor], Any], dtype: torch.dtype) -> Callable[[Tensor], Any]:
    """Return the way that computes in float32, without autocast, and gives tensors of `dtype`."""

    def cast(found: Any) -> Any:
        return found.to(dtype) if isinstance(found, Tensor) else tuple(cast(each) for each in found)

    def run(x: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            return cast(way(x.float()))

    return run


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


def rows_apart(x: Tensor) -> Tensor:
    """Return a matrix as the kernels for rounded numbers take it: each row in a row, wherever the next one begins."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] and not x.is_neg() else plain(x)


def fresh(*shape: int) -> Tensor:
    """Return float32 memory on the CPU for a result. Large ones lie in large pages where the system has them: memory
    that is new at each call is mapped at each call, which takes longer than some of the products that fill it.
    """
    made = torch.empty(shape, dtype=torch.float32, device="cpu")
    if made.nbytes >= _LARGE and door.native is not None:
        door.native.ask_for_large_pages(made.data_ptr(), made.nbytes)
    return made
