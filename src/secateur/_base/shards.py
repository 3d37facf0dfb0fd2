"""What one process stores of a parameter: all of it, or a shard where FSDP2 or tensor parallelism cut it up.

A sharded parameter is a DTensor. It is recognised by what it offers, so that torch.distributed is imported
only where it is in use already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
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


@dataclass(frozen=True)
class Part:
    """Where what this process stores of a tensor lies in the whole.

    Attributes:
        whole: the shape of the whole.
        begin: the first index of the part in each dimension.
        size: its shape.
        counted: whether it is this process that counts the part; False on all but one where several store the same.
    """

    whole: tuple[int, ...]
    begin: tuple[int, ...]
    size: tuple[int, ...]
    counted: bool

    def numbers(self, places: Tensor) -> Tensor:
        """The flat indices in the whole of flat indices in the part."""
        found = torch.zeros_like(places)
        for axis, index in enumerate(torch.unravel_index(places, self.size)):
            found += (index + self.begin[axis]) * prod(self.whole[axis + 1 :])
        return found


def part_of(tensor: Tensor) -> Part | None:
    """Where this process's part of a sharded tensor lies; None where it is not cut into consecutive pieces."""
    sharded: Any = tensor
    mesh, placements = sharded.device_mesh, sharded.placements
    begin, size, counted = [0] * tensor.dim(), list(tensor.shape), True
    for axis, placement in enumerate(placements):
        rank, ranks = mesh.get_local_rank(axis), mesh.size(axis)
        if placement.is_replicate():
            counted &= rank == 0
        elif type(placement).__name__ == "Shard":  # its subclasses cut otherwise
            here = placement.dim
            step = ceil(size[here] / ranks)
            first = min(size[here], rank * step)
            size[here] = min(size[here], first + step) - first
            begin[here] += first
        else:
            return None
    found = Part(tuple(tensor.shape), tuple(begin), tuple(size), counted)
    return found if tuple(local(tensor).shape) == found.size else None


def as_part(piece: Tensor, parameter: Tensor) -> Tensor:
    """A sharded tensor, cut up as `parameter` is, of which this process stores `piece`."""
    from torch.distributed.tensor import DTensor

    mesh, placements = layout(parameter)
    whole: Any = parameter.shape
    stride = tuple(prod(whole[axis + 1 :]) for axis in range(len(whole)))
    made: Any = DTensor.from_local
    return made(piece, mesh, placements, run_check=False, shape=whole, stride=stride)


def summed(numbers: Tensor, mesh: Any) -> Tensor:
    """The sum over all processes of a mesh, on each of them."""
    import torch.distributed as dist

    found = numbers.to(mesh.device_type)
    for axis in range(mesh.ndim):
        dist.all_reduce(found, group=mesh.get_group(axis))
    return found.to(numbers.device)


def from_first(numbers: Tensor, mesh: Any) -> Tensor:
    """What the first process of a mesh has, on each of them."""
    import torch.distributed as dist

    found = numbers.to(mesh.device_type)
    for axis in range(mesh.ndim):
        group = mesh.get_group(axis)
        dist.broadcast(found, src=dist.get_global_rank(group, 0), group=group)
    return found.to(numbers.device)


def least(numbers: Tensor, mesh: Any) -> Tensor:
    """The least over all processes of a mesh, on each of them."""
    return -greatest(-numbers, mesh)


def greatest(numbers: Tensor, mesh: Any) -> Tensor:
    """The greatest over all processes of a mesh, on each of them."""
    import torch.distributed as dist

    found = numbers.to(mesh.device_type)
    for axis in range(mesh.ndim):
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=mesh.get_group(axis))
    return found.to(numbers.device)


def first_said(words: str | None, mesh: Any) -> str | None:
    """What the first process of a mesh has to say that says anything, on each of them: so that all raise, or none."""
    import torch.distributed as dist

    for axis in range(mesh.ndim):
        heard: list[str | None] = [None] * mesh.size(axis)
        dist.all_gather_object(heard, words, group=mesh.get_group(axis))
        words = next((each for each in heard if each is not None), None)
    return words


def one_mesh(tensors: Sequence[Tensor]) -> Any:
    """The mesh that all of these tensors are cut up over; None where some are whole, or on another one."""
    meshes = [layout(tensor)[0] if is_sharded(tensor) else None for tensor in tensors]
    return meshes[0] if all(mesh == meshes[0] for mesh in meshes) else None
