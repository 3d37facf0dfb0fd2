"""Some rows of a sparse weight, multiplied as a layer of their own: cross-attention reads one weight in parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.sparse.layers import SparseLinear
from secateur.sparse.plans import LayerPlan, plan_layer


class RowsOf:
    """The product with rows `first` to `last` of a sparse weight, whose values and bias somebody else has.

    It computes as `SparseLinear` does in everything: kernels, dense products, choices at first calls.

    Args:
        plan: of the whole weight.
        first, last: which of its rows.
        compute_dense, onednn: as in `SparseLinear`.

    Attributes:
        layer: a `SparseLinear` of no weights, whose switches and choices count.
    """

    def __init__(self, plan: LayerPlan, first: int, last: int, *, compute_dense: bool, onednn: bool) -> None:
        self.rows = slice(first, last)
        whole = (first, last) == (0, plan.rows)
        own = plan if whole else plan_layer(plan.mask()[first:last], blocks=True)
        self.index: Tensor | slice | None = None if whole else _index(plan, own, first)
        self.layer = SparseLinear(own, torch.empty(0), None, compute_dense=compute_dense)
        self.layer.onednn = onednn
        self.layer.round_anew()
        self._last: tuple[object, SparseLinear, object] | None = None

    def __call__(self, x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply: x [..., columns] → [..., rows], with all values of the weight and its whole bias."""
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (values, bias))
        if learns or any(t is not None and t.is_inference() for t in (values, bias)):
            return self._with(values, bias)(x)
        key = [(t.data_ptr(), t._version, t.dtype) for t in (values, bias) if t is not None]
        known = self._last
        if known is None or known[0] != key:
            with torch.inference_mode(mode=False), torch.no_grad():
                held = [t.detach() for t in (values, bias) if t is not None]  # nothing else comes to lie there
                known = self._last = (key, self._with(values, bias), held)
        return known[1](x)

    def forget(self) -> None:
        """Forget what was built of values that may have changed without a trace."""
        self._last = None
        self.layer.round_anew()

    def _with(self, values: Tensor, bias: Tensor | None) -> SparseLinear:
        """Return a layer that computes with these tensors and stays connected to them; it shares the choices."""
        own: Any = values
        if isinstance(self.index, slice):
            own = values[self.index]
        elif self.index is not None:
            own = values.index_select(0, self.index.to(values.device))
        made = SparseLinear.__new__(SparseLinear)
        tensors = {"values": own, "bias": None if bias is None else bias[self.rows]}
        vars(made).update(vars(self.layer) | {"_parameters": tensors})
        vars(made).pop("bias", None)  # where a layer of none has it, before its parameters
        return made


def _index(plan: LayerPlan, part: LayerPlan, first: int) -> Tensor | slice:
    """Return where the values of some rows are among those of the whole weight: a range, where they are in a row."""
    place = torch.empty(plan.shape.numel(), dtype=torch.int64)
    place[plan.positions] = torch.arange(plan.kept)
    index = place[part.positions + first * plan.columns]
    begin = int(index[0]) if index.numel() else 0
    if torch.equal(index, torch.arange(begin, begin + index.numel())):
        return slice(begin, begin + index.numel())
    return index
