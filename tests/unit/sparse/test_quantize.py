"""Models with int8 weights: what they compute, what is reported, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import MaskError, Masks, SecateurError, densify, hold, prune, sparsify
from secateur import methods as m
from secateur._base import door
from secateur.sparse import SparseInt8Linear, quantization_of, quantize
from secateur.sparse.measured import BreakEven, Machine
from timed_cases import masks_of


@pytest.fixture(params=["here", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernels of this machine, and without any."""
    if request.param == "torch":
        monkeypatch.setattr(door, "native", None)
    return request.param


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 50), nn.ReLU(), nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 3))


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row to whole multiples of its largest magnitude / 127, the plain way."""
    most = rows.abs().max(1, keepdim=True).values
    whole = (rows * (torch.full_like(most, 127) / most).nan_to_num(0, 0, 0)).round()
    return whole, most / torch.full_like(most, 127)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    (xs, t), (ws, s) = rounded(x), rounded(weight)
    return (xs.double() @ ws.double().T * (t.double() * s.double().T) + bias.double()).float()


def test_it_computes_what_it_says(engine: str) -> None:
    model = model_of()
    masks = masks_of(model)
    before = copy.deepcopy(model.state_dict())
    small: Any = quantize(model, masks)
    assert [type(each) for each in small] == [SparseInt8Linear, nn.ReLU, SparseInt8Linear, nn.Tanh, SparseInt8Linear]
    x = torch.randn(9, 70)
    want = x
    for name, layer in model.named_children():
        dense: Any = layer
        want = plain(want, dense.weight * masks[f"{name}.weight"], dense.bias) if name in "024" else dense(want)
    torch.testing.assert_close(small(x), want, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert not small.training and not any(p.requires_grad for p in small.parameters()) and not list(small.parameters())
    for shape in ((70,), (2, 3, 70), (0, 70)):
        assert small(torch.zeros(shape)).shape == (*shape[:-1], 3)


def test_types_follow_the_input_and_autocast(engine: str) -> None:
    small: Any = quantize(nn.Linear(70, 50), masks_of(nn.Linear(70, 50)))
    x = torch.randn(9, 70)
    want = small(x)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        got = small(x.to(dtype))
        assert got.dtype is dtype
        torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        got = small(x)
    assert got.dtype is torch.bfloat16 and torch.equal(got, want.bfloat16())


def test_errors_are_those_of_the_dense_model(engine: str) -> None:
    model = model_of().eval()
    masks, x = masks_of(model), torch.randn(40, 70)
    small = quantize(model, masks, example_inputs=x)
    report = quantization_of(small)
    dense: Any = copy.deepcopy(model)
    masks.apply_(dense)
    at: Any = {"0": x, "2": dense[:2](x), "4": dense[:4](x)}
    for line in report.layers:
        path = line.name.removesuffix(".weight")
        layer, other = dense.get_submodule(path), small.get_submodule(path)
        apart = (layer.weight - other.weight).norm() / layer.weight.norm()
        assert line.why_not is None and line.weight_error == pytest.approx(apart.item(), rel=1e-4)
        assert 0 < line.weight_error < 0.01, "half a step of 127, at most"
        exact = (at[path] @ layer.weight.T).detach()
        got = (plain(at[path], layer.weight, layer.bias) - layer.bias).detach()
        assert line.output_error == pytest.approx(((exact - got).norm() / exact.norm()).item(), rel=1e-2)
    assert report.output_error == pytest.approx(((dense(x) - small(x)).norm() / dense(x).norm()).item(), rel=1e-3)
    assert 0 < report.output_error < 0.05
    assert "weights off by" in str(report) and f"multiplied by {report.through}" in str(report)
    if engine == "torch":
        assert report.through == "torch" and "no instructions for int8" in str(report)
    assert quantization_of(quantize(model, masks)).output_error is None


class Two(nn.Module):
    """An output that is rounded badly behind one that is not touched, or none of floats at all."""

    def __init__(self, floats: bool) -> None:
        super().__init__()
        self.inner, self.floats = model_of(), floats

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.inner(x)
        return {"same": x, "rounded": y} if self.floats else {"classes": y.argmax(1)}


def test_the_error_of_a_model_is_the_largest_of_its_outputs_and_unknown_where_none_has_floats() -> None:
    x = torch.randn(8, 70)
    model = Two(True)
    masks = masks_of(model)
    masks.apply_(model)  # pruned, not yet rounded: that is what it is compared with
    small = quantize(model, masks, example_inputs=x)
    want, got = (each(x)["rounded"].detach().double() for each in (model, small))
    assert quantization_of(small).output_error == pytest.approx(float((want - got).norm() / want.norm()), rel=1e-5)
    assert quantization_of(small).output_error > 0  # type: ignore[operator]
    blind = Two(False)
    found = quantization_of(quantize(blind, masks_of(blind), example_inputs=x))
    assert found.output_error is None and all(line.output_error is not None for line in found.layers)


def test_bytes_are_those_of_the_kernels() -> None:
    small: Any = quantize(nn.Linear(640, 320), masks_of(nn.Linear(640, 320)))
    (line,) = quantization_of(small).layers
    assert line.bytes == small.plan.kept + 4 * 320 + 640 * 320 // 8
    if door.native is not None and door.native.int8_set():
        small(torch.ones(1, 640))
        assert line.bytes <= small.__dict__["_layer"][1].bytes <= line.bytes + 4 * 320 + 5 * 320


def test_ways_back_and_copies(engine: str) -> None:
    model = model_of()
    small: Any = quantize(model, masks_of(model))
    x = torch.randn(9, 70)
    want = small(x)
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other(x), want)
    back: Any = densify(small)
    assert [type(each) for each in back] == [type(each) for each in model]
    assert torch.equal(back[0].weight, small[0].weight) and not back[0].weight.requires_grad
    state = small.state_dict()
    assert list(state) == list(model.state_dict()) and torch.equal(state["0.weight"], back[0].weight)
    fresh = model_of()
    fresh.load_state_dict(state)
    assert torch.equal(fresh[2].weight, small[2].weight)


def test_training_is_refused() -> None:
    model = model_of()
    masks = masks_of(model)
    small = quantize(model, masks)
    with pytest.raises(SecateurError, match=r"int8 weights do not train.*sparsify"):
        small.train()
    small.eval()
    x = torch.randn(2, 70, requires_grad=True)
    with pytest.raises(SecateurError, match=r"pass no gradients on.*no_grad"):
        small(x)
    with torch.no_grad():
        small(x)
    with pytest.raises(RuntimeError, match="quantize"):
        small.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="must have 70 features, got 7"):
        small(torch.zeros(2, 7))
    for call in (quantize, sparsify, hold):
        with pytest.raises(SecateurError, match="densify"):
            call(small, masks)
    with pytest.raises(SecateurError, match="densify"):
        prune(small, m.magnitude(density=0.5))


def test_wrong_arguments_are_refused() -> None:
    model = model_of()
    masks = masks_of(model)
    with pytest.raises(MaskError):
        quantize(nn.Linear(3, 2), masks)
    with pytest.raises(SecateurError, match="`example_inputs`: Sequential does not run on them"):
        quantize(model, masks, example_inputs=torch.zeros(2, 7))
    with pytest.raises(SecateurError, match="densify"):
        quantize(sparsify(model, masks, machine=Machine("any", False, (BreakEven(64, 128, 2.0),))), masks)
    with torch.no_grad():
        model[0].weight[masks["0.weight"]] = float("nan")
    with pytest.raises(MaskError, match="NaN"):
        quantize(model, masks)
    with pytest.raises(ValueError, match="not made by"):
        quantization_of(model)


def test_other_layers_stay_with_the_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 8).double())
    masks = masks_of(model)
    small: Any = quantize(model, masks)
    said = {line.name: line.why_not for line in quantization_of(small).layers}
    assert said["2.weight"] is None and "float64" in str(said["3.weight"])
    assert said["0.weight"] == "int8 is for the weights of nn.Linear"
    assert type(small[0]) is nn.Conv1d and not small[0].weight[~masks["0.weight"]].any()
    assert torch.equal(small[0].weight[masks["0.weight"]], model[0].weight[masks["0.weight"]])
    assert "untouched: int8 is for" in str(quantization_of(small))
    bare: Any = quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), Masks({"0.weight": torch.eye(4) > 0}))
    assert type(bare[1]) is nn.Linear and len(quantization_of(bare).layers) == 1


def test_a_bfloat16_model_is_dense_bfloat16_again() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16()
    small = quantize(net, Masks({"0.weight": torch.rand(8, 6) < 0.5}))
    again = densify(small)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    x = torch.randn(4, 6, dtype=torch.bfloat16)
    torch.testing.assert_close(again(x), small(x), atol=0.05, rtol=0.05)
    assert {p.dtype for p in densify(small.float()).parameters()} == {torch.float32}
