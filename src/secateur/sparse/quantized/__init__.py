"""Weights of eight bits, for inference: made from a dense model and its masks, with the error they add."""

from secateur.sparse.quantized._quantize import quantize
from secateur.sparse.quantized._report import LayerErrors, QuantizationReport, quantization_of

__all__ = ["LayerErrors", "QuantizationReport", "quantization_of", "quantize"]
