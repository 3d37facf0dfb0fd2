"""Decide between a layer and its sparse form: by their times, or by a break-even."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.convert._situation import Situation, beside
from secateur.sparse.convert._timed import timed, ways_of
from secateur.sparse.layers import SparseLinear

#: What runs instead of a layer, if anything does, and a line for each of its weights.
Chosen = tuple[nn.Module | None, list[LayerReport]]


def as_timed(path: str, module: Any, sparse: Any, situation: Situation, name: str, mask: Tensor) -> Chosen:
    """Choose by the layer's own time; a dense layer stays one, at dense speed, and its zeros are held."""
    found = timed(module, sparse, situation.uses_by_path[path])
    if situation.takes_sparse(found.sparse_wins):
        if isinstance(sparse, SparseLinear):
            sparse.onednn = found.dense == "oneDNN"  # for calls in which it turns out faster dense
        return sparse, [LayerReport.of(name, module.weight, mask, Choice.SPARSE, str(found), held=True)]
    new = None if situation.as_is else ways_of(module, situation.uses_by_path[path]).get(found.dense)
    return new, [LayerReport.of(name, module.weight, mask, Choice.DENSE, str(found), held=True)]


def by_break_even(weight: Tensor, sparse: SparseLinear, situation: Situation, name: str, mask: Tensor) -> Chosen:
    """Choose by the machine's break-even for linear layers; above it the survivors are multiplied densely."""
    plan, machine = sparse.plan, situation.machine
    limit = machine.break_even(plan.rows, plan.columns, situation.batch)
    reason = beside(plan.density, limit)
    if plan.density < limit:
        reason += ", in blocks of four outputs" if plan.blocks else ""
        return sparse, [LayerReport.of(name, weight, mask, Choice.SPARSE, reason, held=True)]
    sparse.compute_dense, sparse.onednn = True, machine.onednn
    return sparse, [LayerReport.of(name, weight, mask, Choice.DENSE, reason, held=True)]
