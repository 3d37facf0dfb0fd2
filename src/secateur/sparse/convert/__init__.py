"""`sparsify` and `densify`: layer by layer, where it is faster on this machine."""

from secateur.sparse.convert._inputs import Inputs, call
from secateur.sparse.convert._report import Choice, LayerReport, Report, report_of
from secateur.sparse.convert._shapes import dense_shapes
from secateur.sparse.convert._situation import Situation, refused_by_kernels
from secateur.sparse.convert._sparsify import copy_with, densify, refuse_nan, sparsify
from secateur.sparse.convert._whole import tensors_in

__all__ = [
    "Choice",
    "Inputs",
    "LayerReport",
    "Report",
    "Situation",
    "call",
    "copy_with",
    "dense_shapes",
    "densify",
    "refuse_nan",
    "refused_by_kernels",
    "report_of",
    "sparsify",
    "tensors_in",
]
