"""The doors to the kernels: autograd functions over native products."""

from secateur.sparse.calls._binary import binary_by_torch, binary_layer, binary_linear
from secateur.sparse.calls._build import SHAPES, Network, build_network, positions_of
from secateur.sparse.calls._chain import sparse_chain
from secateur.sparse.calls._half import Rounded, half_fits, half_linear
from secateur.sparse.calls._half_chosen import BlocksTimed, blocks_at_inference, blocks_in_training
from secateur.sparse.calls._int8 import INPUTS, eight_bits, int8_by_torch, int8_layer, int8_linear
from secateur.sparse.calls._limits import looked_into, refuse_lookers, text_for_lookers
from secateur.sparse.calls._network import run_network, slot_tensors, splits_products
from secateur.sparse.calls._planes import FEW, build_planes, side_by_side
from secateur.sparse.calls._recurrent import Pass, run_direction
from secateur.sparse.calls._tensors import addresses, are_float32, autocast_to, fits, in_float32, plain
from secateur.sparse.calls._workspace import Arena, register, release_workspaces, workspace_bytes

__all__ = [
    "FEW",
    "INPUTS",
    "SHAPES",
    "Arena",
    "BlocksTimed",
    "Network",
    "Pass",
    "Rounded",
    "addresses",
    "are_float32",
    "autocast_to",
    "binary_by_torch",
    "binary_layer",
    "binary_linear",
    "blocks_at_inference",
    "blocks_in_training",
    "build_network",
    "build_planes",
    "eight_bits",
    "fits",
    "half_fits",
    "half_linear",
    "in_float32",
    "int8_by_torch",
    "int8_layer",
    "int8_linear",
    "looked_into",
    "plain",
    "positions_of",
    "refuse_lookers",
    "register",
    "release_workspaces",
    "run_direction",
    "run_network",
    "side_by_side",
    "slot_tensors",
    "sparse_chain",
    "splits_products",
    "text_for_lookers",
    "workspace_bytes",
]
