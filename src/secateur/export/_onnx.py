"""A pruned model as an ONNX file, dense and compared with onnxruntime."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.onnx import ONNXProgram

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError
from secateur.costing import Call, call_of
from secateur.export._compared import difference
from secateur.export._program import answer, program_of, twin

# The largest message of protobuf is 2 GiB: above this, weights lie in a file beside.
_IN_ONE_FILE = 1_900_000_000


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written.

    Attributes:
        path: where it is; weights of models above 1.9 GB lie beside it, in a file of the same name and `.data`.
        bytes: how much was written.
        inputs: the names of its inputs, in order.
        outputs: the names of its outputs, in order.
        difference: the largest difference between outputs of onnxruntime and of the model on the example; None
            where onnxruntime is not installed, and nothing was compared.
    """

    path: Path
    bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float | None

    def __str__(self) -> str:
        compared = (
            "not compared: onnxruntime is not installed"
            if self.difference is None
            else f"onnxruntime differs by at most {self.difference:.2g} on the example"
        )
        return f"{self.path}: {self.bytes:,} bytes, {compared}"


def to_onnx(
    model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_shapes: Any = None, opset: int | None = None
) -> OnnxFile:
    """Write a pruned model as an ONNX file, in eval mode, with its zeros in place.

    Held, shrunk and sparsified models alike, as by `exported`, through `torch.onnx.export(dynamo=True)`. Where
    onnxruntime is installed, the file's outputs on the example are compared with the model's before it gets its name.

    Args:
        model: the model; it stays as it is.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        path: where to write; the folder must exist.
        dynamic_shapes: which sizes may change, as `torch.export.export` takes it; None fixes them all to the example's.
        opset: the version of ONNX's operators; None takes that of torch.

    Returns:
        What was written, and how far onnxruntime's outputs are from the model's.

    Raises:
        SecateurError: onnxscript is not installed, the model does not run with these inputs or cannot be exported, or
            the file computes something else (outputs differ by more than √ε of the largest); nothing is written then.
        OSError: `path` cannot be written.
    """
    require_model(model, "to_onnx(model, example_inputs, path)")
    path, call = Path(path), call_of(example_inputs)
    _require_onnx()
    if not path.parent.is_dir():
        raise SecateurError(
            f"`path` must lie in a folder that exists, and {str(path.parent)!r} does not: make it first."
        )
    alone = twin(model, call)
    program = program_of(alone, call, dynamic_shapes)
    try:
        made = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    except Exception as problem:  # torch raises its own kinds, onnxscript others
        cause = problem.__cause__ or problem
        raise SecateurError(
            f"torch.onnx cannot export {type(alone).__name__}: {type(cause).__name__}: {cause}"
        ) from problem
    assert made is not None, "torch returns the program unless it is given a file"
    return _written(alone, call, made, path)


def _written(alone: nn.Module, call: Call, made: ONNXProgram, path: Path) -> OnnxFile:
    """Write beside the place, compare what was written, and put it there."""
    beside = sum(t.numel() * t.element_size() for t in (*alone.parameters(), *alone.buffers())) > _IN_ONE_FILE
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        made.save(str(draft), external_data=beside)
        apart = _compare(alone, call, draft) if importlib.util.find_spec("onnxruntime") else None
        files = sorted(
            Path(folder).iterdir(), key=lambda file: file == draft
        )  # the one that names the others comes last
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.parent / file.name)
    graph = made.model.graph
    names = (tuple(str(value.name) for value in values) for values in (graph.inputs, graph.outputs))
    return OnnxFile(path, size, *names, difference=apart)


def _compare(alone: nn.Module, call: Call, file: Path) -> float:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = {put.name: t.detach().cpu().numpy() for put, t in zip(session.get_inputs(), call.tensors(), strict=True)}
    found = [torch.as_tensor(array) for array in session.run(None, given)]
    return difference(answer(alone, call), found, "the ONNX file")


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise SecateurError(
            f"torch.onnx needs {' and '.join(missing)}, which come with the extra `export`: "
            "pip install -c constraints.txt '.[export]' in a clone of Secateur, or pip install onnx onnxscript."
        )
