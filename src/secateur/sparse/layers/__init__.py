"""Modules that stand where dense layers stood, and store only what survived."""

from secateur.sparse.layers._built import built
from secateur.sparse.layers._carried import carry_on, refuse_to_carry
from secateur.sparse.layers._choosing import Choosing
from secateur.sparse.layers._convolution import SparseConv1d, SparseConv2d, SparseConvolution, sparse_convolution
from secateur.sparse.layers._int8 import SparseInt8Linear
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._network_sequential import NetworkSequential
from secateur.sparse.layers._one_call import apart, in_one_call
from secateur.sparse.layers._onednn import OneDnnLinear, dense_linear, onednn_available
from secateur.sparse.layers._recurrent import SparseGRU, SparseLSTM, SparseRecurrent, sparse_recurrent
from secateur.sparse.layers._rounded import RoundedLinear
from secateur.sparse.layers._semi_structured import SemiStructuredLinear, SparseDevice, is_two_of_four, this_device
from secateur.sparse.layers._sequential import SparseSequential
from secateur.sparse.layers._state import DenseState, WeightState, fill, take_survivors, thinned, thinned_onto

__all__ = [
    "Choosing",
    "DenseState",
    "NetworkSequential",
    "OneDnnLinear",
    "RoundedLinear",
    "SemiStructuredLinear",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConvolution",
    "SparseDevice",
    "SparseGRU",
    "SparseInt8Linear",
    "SparseLSTM",
    "SparseLinear",
    "SparseRecurrent",
    "SparseSequential",
    "WeightState",
    "apart",
    "built",
    "carry_on",
    "dense_linear",
    "fill",
    "in_one_call",
    "is_two_of_four",
    "onednn_available",
    "refuse_to_carry",
    "sparse_convolution",
    "sparse_recurrent",
    "take_survivors",
    "thinned",
    "thinned_onto",
    "this_device",
]
