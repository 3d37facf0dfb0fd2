"""How the evidence of several ranks becomes that of one process which had seen all their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from secateur.measures._probe import Evidence

#: Combines a tensor over all ranks, in place.
Reduction = Callable[[Tensor], None]


def all_sum(tensor: Tensor) -> None:
    """Add the evidence of all ranks, in place: what a single process would have measured on all their batches."""
    dist.all_reduce(tensor)


def all_mean(tensor: Tensor) -> None:
    """Average over all ranks, in place: each has a part of the batch of the same size."""
    dist.all_reduce(tensor)
    tensor.div_(dist.get_world_size())


def all_norm(tensor: Tensor) -> None:
    """Combine Euclidean norms, in place: √(Σ norm²) is the norm over the samples of all ranks."""
    tensor.square_()
    dist.all_reduce(tensor)
    tensor.sqrt_()


def from_first_rank(tensor: Tensor) -> None:
    """Give every rank the evidence of rank 0, in place (for evidence that is drawn at random)."""
    dist.broadcast(tensor, src=0)


def from_all_ranks(rows: Tensor) -> Tensor:
    """The rows of all ranks, one under the other in the order of the ranks; without a process group, these alone."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    found: list[Tensor] = [rows.cpu()] * dist.get_world_size()
    dist.all_gather_object(found, rows.cpu())
    return torch.cat(found).to(rows.device)


def reduced(evidence: Evidence, reduction: Reduction | None) -> Evidence:
    """Combine evidence over the ranks of a process group, in new tensors; without one, nothing happens.

    A tensor that only some ranks know of (their batches took another path) counts as zero on the others.
    """
    if reduction is None or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return evidence
    known: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(known, {name: (tensor.shape, tensor.dtype) for name, tensor in evidence.items()})
    device = _device(evidence.values())
    for name, (shape, dtype) in sorted({name: what for rank in known for name, what in rank.items()}.items()):
        if name in evidence:  # a copy: autograd's buffers may be expanded, or serve two parameters at once
            whole = evidence[name].clone(memory_format=torch.contiguous_format)
        else:
            whole = torch.zeros(shape, dtype=dtype, device=device)
        reduction(whole)
        evidence[name] = whole
    return evidence


def _device(tensors: Iterable[Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
