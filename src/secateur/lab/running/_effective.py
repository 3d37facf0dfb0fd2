"""Which of the weights kept can matter at all: paths from input to output, empty rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from secateur._base.types import Bool


@dataclass(frozen=True)
class LayerUse:
    """What one tensor's mask leaves connected.

    A row is all the weights into one output (a unit, a filter, a gate), a column all the weights that leave
    one input. None where there are no rows and columns (a bias).
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    numel: int
    empty_rows: int | None
    empty_columns: int | None
    effective: int | None = None


def layer_uses(masks: Mapping[str, Tensor], *, effective: bool = True) -> list[LayerUse]:
    """Count for each tensor the weights kept, the empty rows and columns, and the effective weights.

    A weight is *effective* when a path of kept weights leads from some input of the network through it to
    some output. That is computed where the matrices form a chain (`is_chain`); elsewhere `effective` is None.

    Args:
        masks: parameter name → which weights are not zero, in the order of the layers.
        effective: False leaves the effective numbers out, for a caller who knows that the layers are no
            chain.

    >>> first = torch.tensor([[True, False], [True, True]])
    >>> second = torch.tensor([[True, False]])  # does not listen to the second hidden unit
    >>> [use.effective for use in layer_uses({"0.weight": first, "2.weight": second})]
    [1, 1]
    """
    wanted = is_chain(masks) and effective
    counts = _effective(masks) if wanted else {}
    return [_use(name, mask, counts.get(name)) for name, mask in masks.items()]


def is_chain(masks: Mapping[str, Tensor]) -> bool:
    """Tell whether the matrices form a chain: each one's rows are the next one's columns, the rest is biases.

    Shapes and order are all that is looked at. A network with skips whose matrices happen to fit would pass
    too; callers who know the model check that it is a plain stack of Linear layers first.
    """
    matrices = [mask for mask in masks.values() if mask.dim() == 2]
    others = [name for name, mask in masks.items() if mask.dim() != 2 and not name.endswith("bias")]
    fits = all(one.shape[0] == two.shape[1] for one, two in pairwise(matrices))
    return bool(matrices) and not others and fits and all(mask.numel() for mask in matrices)


def _effective(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Reach forward from the inputs, backward from the outputs; a weight counts if both its ends are met."""
    matrices = {name: mask for name, mask in masks.items() if mask.dim() == 2}
    first, last = next(iter(matrices.values())), list(matrices.values())[-1]
    forward = [torch.ones(first.shape[1], dtype=torch.bool)]
    for mask in matrices.values():
        forward.append(_reached(mask, forward[-1]))
    backward = [torch.ones(last.shape[0], dtype=torch.bool)]
    for mask in reversed(matrices.values()):
        backward.append(_reached(mask.T, backward[-1]))
    backward.reverse()
    return {
        name: int((mask & forward[depth] & backward[depth + 1][:, None]).sum())
        for depth, (name, mask) in enumerate(matrices.items())
    }


def _reached(mask: Bool[Tensor, "rows columns"], alive: Bool[Tensor, " columns"]) -> Bool[Tensor, " rows"]:
    return (mask & alive).any(dim=1)


def _use(name: str, mask: Tensor, effective: int | None) -> LayerUse:
    rows = columns = None
    if mask.dim() >= 2 and mask.numel():
        flat = (
            mask.flatten(2).any(dim=2) if mask.dim() > 2 else mask
        )  # [outputs, inputs]: any entry of a kernel will do
        rows = int((~flat.any(dim=1)).sum())
        columns = int((~flat.any(dim=0)).sum())
    return LayerUse(name, tuple(mask.shape), int(mask.sum()), mask.numel(), rows, columns, effective)
