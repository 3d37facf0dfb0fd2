"""Archives: a model in a really small file, safe to open, in the stages of Deep Compression and better ones.

report = compress(model, masks, "model.sct", values=archive.shared(5))
model, masks, _ = load("model.sct", model)
"""

from secateur.archive._compress import CODERS, SUPPORTS, compress
from secateur.archive._container import is_archive
from secateur.archive._load import load, tensors_of
from secateur.archive._report import Report, TensorSize, inspect
from secateur.archive._supports import Support, bitmap, gaps, modelled
from secateur.archive._values import Values, exact, int8, rounded, shared
from secateur.coding import Coder, density, huffman, learnt, linear, packed, plain, random, ranked

__all__ = [
    "CODERS",
    "SUPPORTS",
    "Coder",
    "Report",
    "Support",
    "TensorSize",
    "Values",
    "bitmap",
    "compress",
    "density",
    "exact",
    "gaps",
    "huffman",
    "inspect",
    "int8",
    "is_archive",
    "learnt",
    "linear",
    "load",
    "modelled",
    "packed",
    "plain",
    "random",
    "ranked",
    "rounded",
    "shared",
    "tensors_of",
]
