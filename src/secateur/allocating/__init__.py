"""How much each part of a model may lose: densities from the error that was measured when it alone was pruned."""

from secateur.allocating._allocate import Allocation, allocate
from secateur.allocating._share import shared_out

__all__ = ["Allocation", "allocate", "shared_out"]
