"""Two answers of one model, compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.coupling import tensors_of


def difference(expected: Any, found: Any, what: str) -> float:
    """Return the largest difference of two models' outputs; NaN and infinities count as equal where both have them.

    Raises:
        SecateurError: they differ by more than √ε of the largest number, with the ε of the outputs' type.
    """
    wanted, got = tensors_of(expected), tensors_of(found)
    if not wanted:
        raise SecateurError(f"the model answers with no tensors, so that {what} cannot be compared with it.")
    if [tuple(t.shape) for t in wanted] != [tuple(t.shape) for t in got]:
        raise SecateurError(
            f"{what} answers with tensors of the shapes {[tuple(t.shape) for t in got]}, the model with "
            f"{[tuple(t.shape) for t in wanted]}. Export the part of the model whose forward returns tensors alone."
        )
    return max((_apart(one, other, what) for one, other in zip(wanted, got, strict=True)), default=0.0)


def _apart(wanted: Tensor, got: Tensor, what: str) -> float:
    allowed = torch.finfo(wanted.dtype).eps ** 0.5 if wanted.is_floating_point() else 0.0
    one, other = wanted.detach().to("cpu", torch.float64), got.detach().to("cpu", torch.float64)
    equal = (one == other) | (one.isnan() & other.isnan())
    apart = torch.where(equal, 0.0, (one - other).abs())
    largest = float(apart.max()) if apart.numel() else 0.0
    finite = one[one.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    if not largest <= allowed * scale:  # NaN too
        raise SecateurError(
            f"{what} computes something else: on the example its outputs differ by up to {largest:.3g}, where the "
            f"largest is {scale:.3g}. Nothing was written; is there a random choice in the model's eval mode?"
        )
    return largest
