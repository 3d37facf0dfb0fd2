"""Modules that stand where dense layers stood, and store only what survived."""

from secateur.sparse.layers._attention import SparseAttention, attention_weights, sparse_attention
from secateur.sparse.layers._choosing import Choosing
from secateur.sparse.layers._convolution import SparseConv1d, SparseConv2d, SparseConvolution, sparse_convolution
from secateur.sparse.layers._encoder import SparseEncoder, SparseEncoderLayer
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._network_sequential import NetworkSequential
from secateur.sparse.layers._onednn import OneDnnLinear, dense_linear, onednn_available
from secateur.sparse.layers._recurrent import SparseGRU, SparseLSTM, SparseRecurrent, sparse_recurrent
from secateur.sparse.layers._semi_structured import SemiStructuredLinear, SparseDevice, is_two_of_four, this_device
from secateur.sparse.layers._sequential import SparseSequential
from secateur.sparse.layers._state import DenseState, fill
from secateur.sparse.layers._transposed import SparseTransposedLinear, why_no_conv1d

__all__ = [
    "Choosing",
    "DenseState",
    "NetworkSequential",
    "OneDnnLinear",
    "SemiStructuredLinear",
    "SparseAttention",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConvolution",
    "SparseDevice",
    "SparseEncoder",
    "SparseEncoderLayer",
    "SparseGRU",
    "SparseLSTM",
    "SparseLinear",
    "SparseRecurrent",
    "SparseSequential",
    "SparseTransposedLinear",
    "attention_weights",
    "dense_linear",
    "fill",
    "is_two_of_four",
    "onednn_available",
    "sparse_attention",
    "sparse_convolution",
    "sparse_recurrent",
    "this_device",
    "why_no_conv1d",
]
