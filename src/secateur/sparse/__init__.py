"""Sparse execution: only surviving weights stored, computed and trained.

    fast = sparsify(model, masks)                     # any model: your loop, torch.optim, a new model
    step = compile_step(model, masks, loss, optimizer)  # feed-forward chains: a whole step in one native call

`product.py` is the one door to the kernels of linear layers; other kinds of layers get a door beside it.
"""

from __future__ import annotations

from secateur.sparse.convert import densify, report_of, sparsify
from secateur.sparse.convolution import SparseConv1d, SparseConv2d
from secateur.sparse.fused import FusedStep, compile_step, why_no_fused_step
from secateur.sparse.linear import SparseLinear
from secateur.sparse.machine import Machine, this_machine
from secateur.sparse.network_step import NetworkStep
from secateur.sparse.recurrent import SparseGRU, SparseLSTM
from secateur.sparse.report import Choice, LayerReport, Report
from secateur.sparse.trace import UnsupportedError

__all__ = [
    "Choice",
    "FusedStep",
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
