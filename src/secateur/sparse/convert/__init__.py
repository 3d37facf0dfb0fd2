"""`sparsify` and `densify`: layer by layer, where it is faster on this machine."""

from secateur.sparse.convert._report import Choice, LayerReport, Report, report_of
from secateur.sparse.convert._shapes import dense_shapes
from secateur.sparse.convert._sparsify import densify, sparsify

__all__ = ["Choice", "LayerReport", "Report", "dense_shapes", "densify", "report_of", "sparsify"]
