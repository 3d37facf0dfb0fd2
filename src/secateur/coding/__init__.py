"""Codes: values that weights share, and how symbols and places become few bytes and come back."""

from secateur.coding._cursor import Cursor, FileCursor, number
from secateur.coding._gaps import decode_gaps, encode_gaps
from secateur.coding._places import Places
from secateur.coding._shared import (
    Init,
    SharedValues,
    codebook_of,
    density,
    linear,
    nearest,
    random,
    shared_values,
)
from secateur.coding._streams import Coder, entropy, huffman, learnt, packed, plain, ranked, read_stream, written

__all__ = [
    "Coder",
    "Cursor",
    "FileCursor",
    "Init",
    "Places",
    "SharedValues",
    "codebook_of",
    "decode_gaps",
    "density",
    "encode_gaps",
    "entropy",
    "huffman",
    "learnt",
    "linear",
    "nearest",
    "number",
    "packed",
    "plain",
    "random",
    "ranked",
    "read_stream",
    "shared_values",
    "written",
]
