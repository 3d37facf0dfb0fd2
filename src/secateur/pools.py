"""Selection in many small pools at once, and by a given value: the companions of `select.topk_mask`."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._types import Bool, Shaped
from secateur.errors import ScoreError, SecateurError


def topk_rows(
    scores: Shaped[Tensor, "rows entries"], keep: int, *, name: str = "scores"
) -> Bool[Tensor, "rows entries"]:
    """Keep exactly the `keep` highest scores of every row; equal scores are kept by lower index.

    Raises:
        ScoreError: NaN or infinite scores; SecateurError: `keep` outside [0, entries].

    >>> topk_rows(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), 2)
    tensor([[False,  True,  True, False]])
    """
    if not 0 <= keep <= scores.shape[1]:
        raise SecateurError(f"`keep` must be in [0, {scores.shape[1]}], the entries of a row, got {keep}.")
    require_finite(scores, name)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :keep]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(1, order, True)


def at_least(scores: Tensor, value: float, *, name: str = "scores") -> Bool[Tensor, "..."]:
    """Keep every score that is at least `value`; NaN and infinite scores are errors, as everywhere."""
    require_finite(scores, name)
    return scores >= value


def require_finite(scores: Tensor, name: str) -> None:
    """Raise ScoreError if a score is NaN or infinite (NaN sorts as the largest in torch, and would be kept)."""
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ScoreError(
            f"{bad} of {scores.numel()} scores of {name!r} are NaN or infinite: they cannot be ranked. "
            "Look at the loss and the weights of that layer; score in float32 or float64, not in half precision."
        )
