"""ONNX files of pruned models, run by onnxruntime beside the models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from export_cases import ALWAYS_SPARSE, NETS, convolutional
from secateur.export import to_onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"extra `export`: no {', '.join(MISSING)}")
# Of torch's own exporter, whose parts do not agree on each other's names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@needs_onnx
@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_computes_what_the_sparse_model_does(name: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    net, example = NETS[name]()
    masks = sc.prune(net.eval(), sc.methods.magnitude(0.3))
    fast = sc.sparsify(net, masks, machine=ALWAYS_SPARSE)
    made = to_onnx(fast, example, tmp_path / "net.onnx", dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert made.difference is not None and made.difference < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"] and made.bytes == made.path.stat().st_size
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    assert tuple(each.name for each in session.get_inputs()) == made.inputs
    other = torch.randn(6, *example[0].shape[1:])  # another batch than the example's
    (found,) = session.run(list(made.outputs), {made.inputs[0]: other.numpy()})
    np.testing.assert_allclose(found, fast.eval()(other).detach().numpy(), rtol=1e-4, atol=1e-5)
    zeros = sum(int((onnx.numpy_helper.to_array(t) == 0).sum()) for t in onnx.load(made.path).graph.initializer)
    assert zeros >= sum(int((~mask).sum()) for mask in masks.values())


@needs_onnx
def test_a_shrunk_model_gives_a_smaller_file(tmp_path: Path) -> None:
    import onnx

    net, (x,) = convolutional()
    small = to_onnx(sc.shrink(net, 0.3, x).model, x, tmp_path / "small.onnx")
    stored = sum(onnx.numpy_helper.to_array(tensor).size for tensor in onnx.load(small.path).graph.initializer)
    assert stored < 0.6 * sum(weight.numel() for weight in net.parameters())
    assert str(small).startswith(f"{tmp_path / 'small.onnx'}: {small.bytes:,} bytes, onnxruntime differs by at most")


@needs_onnx
def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sc.SecateurError, match="`path` must lie in a folder that exists"):
        to_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "nowhere" / "net.onnx")


def test_without_onnxscript_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(sc.SecateurError, match=r"torch\.onnx needs onnx and onnxscript.*'\.\[export\]'"):
        to_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
