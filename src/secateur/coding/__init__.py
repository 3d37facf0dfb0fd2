"""Codes: values that weights share, and how symbols and places become few bytes and come back."""

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

__all__ = [
    "Init",
    "SharedValues",
    "codebook_of",
    "density",
    "linear",
    "nearest",
    "random",
    "shared_values",
]
