"""What one process stores of a parameter: all of it, or a shard where FSDP2 or tensor parallelism cut it up.

A sharded parameter is a DTensor. It is recognised by what it offers, so that torch.distributed is imported
only where it is in use already.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Say whether the tensor is a DTensor, of which this process may store a part only."""
    return hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def layout(tensor: Tensor) -> tuple[object, ...]:
    """Return how the tensor is cut up over which processes; empty for one that is not."""
    sharded: Any = tensor
    return (sharded.device_mesh, sharded.placements) if is_sharded(tensor) else ()


def local(tensor: Tensor) -> Tensor:
    """Return what this process stores of the tensor, sharing its memory."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Return the whole tensor; for a sharded one every process must call this together."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def local_mask(mask: Tensor, parameter: Tensor) -> Tensor:
    """Return the part of `mask` that lies over what this process stores of `parameter`, on its device.

    Any tensor of the parameter's shape will do for `mask`. Every process holds the whole of it, so nothing is
    communicated.
    """
    mask = mask.to(parameter.device)
    if not is_sharded(parameter):
        return mask
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = layout(parameter)
    cut: Any = distribute_tensor
    return cut(mask, mesh, placements, src_data_rank=None).to_local()
