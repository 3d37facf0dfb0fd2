"""Where stored values stand in a dense tensor: as a list of places, or as a compiled layer knows it without one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.types import Bool, Int

_SOMEWHERE = 64  # where a tensor without numbers lies
_LINE = 64  # bytes of a cache line


@runtime_checkable
class Places(Protocol):
    """Flat places in a dense tensor, one for each value stored."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def take(self, dense: Tensor, out: Tensor) -> None:
        """Copy what stands at these places of a dense float tensor, on any device, to `out`: float32 on the CPU."""
        ...

    def put(self, values: Tensor, dense: Tensor) -> None:
        """Write float32 values on the CPU to these places of a dense tensor like them, and leave the others."""
        ...

    def listed(self) -> Int[Tensor, " count"]:
        """Return the flat places."""
        ...


class ListedPlaces:
    """Places as a list of flat indices, 8 bytes each.

    >>> out = torch.zeros(2)
    >>> ListedPlaces(torch.tensor([2, 0])).take(torch.tensor([5.0, 6.0, 7.0]), out)
    >>> out
    tensor([7., 5.])
    """

    def __init__(self, places: Int[Tensor, " count"]) -> None:
        self._listed = places

    def __len__(self) -> int:
        return self._listed.numel()

    def take(self, dense: Tensor, out: Tensor) -> None:
        """Copy what stands there to `out`."""
        out.copy_(dense.reshape(-1)[self._listed])

    def put(self, values: Tensor, dense: Tensor) -> None:
        """Write values there."""
        dense.view(-1)[self._listed] = values

    def listed(self) -> Int[Tensor, " count"]:
        """Return the flat places."""
        return self._listed


class LayerPlaces:
    """Places of a compiled linear layer's weights in the dense weight: the layer knows them, nothing else is kept.

    Args:
        layer: the native layer.
        mask: of the dense weight, if only these rows and columns of it are in the layer; what it keeps in other rows
            comes behind the layer's weights, row by row.
        rows, columns: which.
    """

    def __init__(
        self,
        layer: Any,
        mask: Bool[Tensor, "rows columns"] | None = None,
        rows: Bool[Tensor, " rows"] | None = None,
        columns: Bool[Tensor, " columns"] | None = None,
    ) -> None:
        native: Any = door.native
        if mask is None or rows is None or columns is None or bool(rows.all() & columns.all()):
            self._native = native.DensePlaces(layer)
        else:
            self._native = native.DensePlaces(layer, mask.numpy(), rows.numpy(), columns.numpy())

    def __len__(self) -> int:
        return len(self._native)

    def take(self, dense: Tensor, out: Tensor) -> None:
        """Copy what stands there to `out`."""
        if readable(dense) and readable(out):
            self._native.take(_address(dense), _address(out), torch.get_num_threads())
        else:
            out.copy_(dense.reshape(-1)[self.listed().to(dense.device)])

    def put(self, values: Tensor, dense: Tensor) -> None:
        """Write values there."""
        if readable(dense) and readable(values):
            self._native.put(_address(values), _address(dense), torch.get_num_threads())
            torch.autograd.graph.increment_version(dense)  # as torch does where it writes
        else:
            dense.view(-1)[self.listed()] = values

    def listed(self) -> Int[Tensor, " count"]:
        """List them."""
        return torch.from_numpy(self._native.listed(torch.get_num_threads()))


def floats(count: int) -> Tensor:
    """Return room for so many float32 values, all zero, on the CPU.

    As NumPy allocates: in large pages where the system has them, and without memory for zeros that nobody has written.
    Begins with a cache line, which the kernels' vectors fill.
    """
    array = np.zeros(count + _LINE // 4, dtype=np.float32)
    first = -array.ctypes.data % _LINE // 4
    return torch.from_numpy(array[first : first + count])


def readable(tensor: Tensor) -> bool:
    """Tell whether the kernels can read and write this tensor as it lies, and autograd need not know."""
    if tensor.dtype is not torch.float32 or not tensor.is_cpu or tensor.layout is not torch.strided:
        return False
    if (tensor.requires_grad and torch.is_grad_enabled()) or not tensor.is_contiguous() or tensor.is_neg():
        return False
    return type(tensor) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def _address(tensor: Tensor) -> list[int]:
    return [tensor.data_ptr() or _SOMEWHERE, tensor.numel()]
