"""Labels: an integer for each index of a dimension, united in bulk; products tie a merged dimension to its factors."""

from secateur.coupling.labels._classes import components
from secateur.coupling.labels._labels import Frozen, Labels
from secateur.coupling.labels._products import Factor, Ids, Product, Products, Row

__all__ = ["Factor", "Frozen", "Ids", "Labels", "Product", "Products", "Row", "components"]
