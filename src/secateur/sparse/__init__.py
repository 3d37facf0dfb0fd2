"""Sparse execution: only surviving weights stored, computed and trained.

    fast = sparsify(model, masks)                     # any model: your loop, torch.optim, a new model
    step = compile_step(model, masks, loss, optimizer)  # a whole training step in one native call

`product.py` is the one door to the kernels of linear layers; other kinds of layers get a door beside it.
"""

from __future__ import annotations

from secateur.sparse.convert._report import Choice, LayerReport, Report
from secateur.sparse.convert._sparsify import densify, report_of, sparsify
from secateur.sparse.layers._convolution import SparseConv1d, SparseConv2d
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._recurrent import SparseGRU, SparseLSTM
from secateur.sparse.measured._machine import BreakEven, Machine, this_machine
from secateur.sparse.programs._trace import UnsupportedError
from secateur.sparse.steps._compile import compile_step, why_no_fused_step
from secateur.sparse.steps._network import NetworkStep

__all__ = [
    "BreakEven",
    "Choice",
    "LayerReport",
    "Machine",
    "NetworkStep",
    "Report",
    "SparseConv1d",
    "SparseConv2d",
    "SparseGRU",
    "SparseLSTM",
    "SparseLinear",
    "UnsupportedError",
    "compile_step",
    "densify",
    "report_of",
    "sparsify",
    "this_machine",
    "why_no_fused_step",
]
