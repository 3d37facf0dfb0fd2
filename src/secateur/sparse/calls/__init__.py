"""The doors to the kernels: autograd functions over native products."""

from secateur.sparse.calls._build import Network, build_network, positions_of
from secateur.sparse.calls._chain import sparse_chain
from secateur.sparse.calls._limits import looked_into, refuse_lookers, text_for_lookers
from secateur.sparse.calls._network import run_network, slot_tensors
from secateur.sparse.calls._recurrent import Pass, run_direction
from secateur.sparse.calls._tensors import fits

__all__ = [
    "Network",
    "Pass",
    "build_network",
    "fits",
    "looked_into",
    "positions_of",
    "refuse_lookers",
    "run_direction",
    "run_network",
    "slot_tensors",
    "sparse_chain",
    "text_for_lookers",
]
