"""Models for other runtimes: held, shrunk and sparsified ones as programs of torch.export and as ONNX files."""

from __future__ import annotations

from secateur.export._onnx import OnnxFile, to_onnx
from secateur.export._program import exported

__all__ = ["OnnxFile", "exported", "to_onnx"]
