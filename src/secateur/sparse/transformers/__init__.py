"""Sparse forms of what transformers are made of: multi-head attention, torch's encoders, GPT-2's `Conv1D`."""

from secateur.sparse.transformers._attention import SparseAttention
from secateur.sparse.transformers._encoder import SparseEncoder, SparseEncoderLayer
from secateur.sparse.transformers._taken import attention_weights, sparse_attention
from secateur.sparse.transformers._transposed import SparseTransposedLinear, why_no_conv1d

__all__ = [
    "SparseAttention",
    "SparseEncoder",
    "SparseEncoderLayer",
    "SparseTransposedLinear",
    "attention_weights",
    "sparse_attention",
    "why_no_conv1d",
]
