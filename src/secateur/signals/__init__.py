"""What signals do in a network before it is trained: paths, kernels, walks, and how far a signal carries.

| name | what it is |
|---|---|
| `effective` | which kept weights lie on a path from the inputs to the outputs |
| `prospect` | a measure: what a connection is worth after some steps of training (ProsPr) |
| `kernel_change` | a measure: how much outputs change with weights, whatever the data (NTK-SAP) |
| `transferred` | a measure: sparse weights that keep the dense network's tangent kernel (NTT) |
| `walks` | a measure: when random walks first come by each weight (PHEW) |
| `tangent_kernel` | the neural tangent kernel between two batches |
| `edge_of_chaos_`, `orthogonal_` | initial weights through which signals carry |
"""

from __future__ import annotations

from secateur.signals._chaos import (
    correlation_slope,
    edge_of_chaos,
    edge_of_chaos_,
    orthogonal_,
    singular_values,
)
from secateur.signals._effective import Paths, effective
from secateur.signals._kernel import tangent_kernel, transferred
from secateur.signals._prospect import prospect
from secateur.signals._sap import kernel_change
from secateur.signals._walks import walks

__all__ = [
    "Paths",
    "correlation_slope",
    "edge_of_chaos",
    "edge_of_chaos_",
    "effective",
    "kernel_change",
    "orthogonal_",
    "prospect",
    "singular_values",
    "tangent_kernel",
    "transferred",
    "walks",
]
