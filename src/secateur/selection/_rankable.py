"""Which scores can be ranked at all, and the sentences for those that cannot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur._base.errors import ScoreError, nearest
from secateur._base.shards import is_sharded
from secateur.selection import _radix

_LONG_INTEGERS = {torch.int64, torch.uint64}


def require_rankable(name: str, scores: Tensor) -> None:
    """Raise ScoreError unless the tensor holds real numbers that float32 or float64 represent exactly."""
    if scores.is_complex():
        raise ScoreError(f"{_called(name)} must be real to be ranked, got {scores.dtype}. Take its `abs()`.")
    if scores.layout != torch.strided:
        raise ScoreError(f"{_called(name)} must be dense to be ranked, got {scores.layout}: `to_dense()`.")
    if scores.is_meta:
        raise ScoreError(f"{_called(name)} must hold values, got the meta device. Compute it on a real one.")
    if scores.dtype in _LONG_INTEGERS:
        for part in _radix.parts(scores, scores.dtype):
            if (part.double().to(part.dtype) != part).any():
                raise ScoreError(
                    f"{_called(name)} must fit float64 exactly to be ranked, got {scores.dtype} beyond 2⁵³. "
                    "Divide the scores, or convert them to float64 yourself."
                )


def refuse_sharded(name: str, scores: Tensor, way: str) -> None:
    """Raise ScoreError for scores that are cut up over processes, where they are not ranked as a whole."""
    if is_sharded(scores):
        raise ScoreError(
            f"{_called(name)} is cut up over processes (a DTensor) and is not chosen from {way} there. Rank globally "
            "or by layer (scope.everywhere(), scope.layerwise()), or prune before the model is cut up."
        )


def require_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise ScoreError that names the first tensor with a NaN or an infinity, and counts the others."""
    bad = [name for name, tensor in scores.items() if not _all_finite(tensor)]
    if not bad:
        return
    first = scores[bad[0]]
    nans = infinities = 0
    for part in _radix.parts(first, _radix.key_dtype([first])):
        nans += int(part.isnan().sum())
        infinities += int(part.isinf().sum())
    others = f" ({len(bad) - 1} more tensors have some)" if len(bad) > 1 else ""
    raise ScoreError(
        f"{_called(bad[0])} must be finite to be ranked, got {nans} NaN and {infinities} infinite of "
        f"{first.numel()} values{others}. Check that the loss is finite and score in float32 or float64; "
        "`torch.nan_to_num` gives such entries a value on purpose."
    )


def require_costs(scores: Mapping[str, Tensor], cost: Mapping[str, float | Tensor]) -> None:
    """Raise ScoreError unless every score tensor has a cost: a number ≥ 0, or a tensor of them."""
    for name, tensor in scores.items():
        if name not in cost:
            raise ScoreError(f"`cost` must have an entry for every tensor, got none for {name!r}.")
        each = cost[name]
        if isinstance(each, Tensor) and each.shape != tensor.shape:
            raise ScoreError(
                f"`cost[{name!r}]` must be a number or have the scores' shape {tuple(tensor.shape)}, "
                f"got shape {tuple(each.shape)}. Use `expand_as`."
            )
        values = torch.as_tensor(each)
        if not bool((values.isfinite() & (values >= 0)).all()):
            raise ScoreError(
                f"`cost[{name!r}]` must be finite and at least 0, got {_worst(values)}. "
                "Give an entry that costs nothing the cost 0."
            )
    for name in cost:
        if name not in scores:
            raise ScoreError(f"`cost` must name score tensors, got {name!r}.{nearest(name, scores)}")


def _worst(values: Tensor) -> float:
    bad = values[~(values.isfinite() & (values >= 0))]
    return float(bad.flatten()[0])


def _all_finite(scores: Tensor) -> bool:
    return all(bool(part.isfinite().all()) for part in _radix.parts(scores, _radix.key_dtype([scores])))


def _called(name: str) -> str:
    return f"`scores[{name!r}]`"
