"""Weights of few bits, for inference: of eight, with the error they add, and of one, exactly."""

from __future__ import annotations

from secateur.sparse.quantized._binarised import BinarisationReport, BinaryLayer, binarisation_of, binarised
from secateur.sparse.quantized._binary import BinaryLinear
from secateur.sparse.quantized._quantize import quantize
from secateur.sparse.quantized._report import LayerErrors, QuantizationReport, quantization_of

__all__ = [
    "BinarisationReport",
    "BinaryLayer",
    "BinaryLinear",
    "LayerErrors",
    "QuantizationReport",
    "binarisation_of",
    "binarised",
    "quantization_of",
    "quantize",
]
