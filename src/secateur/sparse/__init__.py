"""Sparse execution: only surviving weights stored, computed and trained.

    fast = sparsify(model, masks)                     # any model: your loop, torch.optim, a new model
    step = compile_step(model, masks, loss, optimizer)  # a whole training step in one native call

Rooms, each standing on those before it: `plans` (where weights are) and `programs` (what a model computes); `calls`
(the doors to the kernels) and `timing` (what is faster here); `layers`, `transformers`, `measured` (break-evens),
`convert` and `quantized` (weights of eight bits, and of one) on one side, `steps` on the other.
"""

from __future__ import annotations

from secateur.sparse._bench import BenchRow, bench
from secateur.sparse.calls import release_workspaces, workspace_bytes
from secateur.sparse.convert import Choice, LayerReport, Report, dense_shapes, densify, report_of, sparsify
from secateur.sparse.layers import (
    SparseConv1d,
    SparseConv2d,
    SparseGRU,
    SparseInt8Linear,
    SparseLinear,
    SparseLSTM,
)
from secateur.sparse.measured import BreakEven, Machine, this_machine
from secateur.sparse.programs import UnsupportedError
from secateur.sparse.quantized import (
    BinarisationReport,
    BinaryLayer,
    BinaryLinear,
    LayerErrors,
    QuantizationReport,
    binarisation_of,
    binarised,
    quantization_of,
    quantize,
)
from secateur.sparse.steps import NetworkStep, compile_step, why_no_fused_step
from secateur.sparse.transformers import SparseAttention, SparseTransposedLinear

__all__ = [
    "BenchRow",
    "BinarisationReport",
    "BinaryLayer",
    "BinaryLinear",
    "BreakEven",
    "Choice",
    "LayerErrors",
    "LayerReport",
    "Machine",
    "NetworkStep",
    "QuantizationReport",
    "Report",
    "SparseAttention",
    "SparseConv1d",
    "SparseConv2d",
    "SparseGRU",
    "SparseInt8Linear",
    "SparseLSTM",
    "SparseLinear",
    "SparseTransposedLinear",
    "UnsupportedError",
    "bench",
    "binarisation_of",
    "binarised",
    "compile_step",
    "dense_shapes",
    "densify",
    "quantization_of",
    "quantize",
    "release_workspaces",
    "report_of",
    "sparsify",
    "this_machine",
    "why_no_fused_step",
    "workspace_bytes",
]
