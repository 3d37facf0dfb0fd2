"""GPT-2's `Conv1D` sparsified: the same function, its own state_dict, and the way back to its own class."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from secateur import MaskError, Masks, hold
from secateur.sparse import (
    Choice,
    Machine,
    SparseTransposedLinear,
    dense_shapes,
    densify,
    report_of,
    sparsify,
)
from secateur.sparse.measured import BreakEven
from timed_cases import DENSE, SPARSE, Clock
from transformer_cases import Conv1D, GPT2Block, double, masks_of


def sparse_of(layer: nn.Module, masks: Masks, machine: Machine) -> SparseTransposedLinear:
    found = sparsify(layer, masks, machine=machine)
    assert isinstance(found, SparseTransposedLinear)
    return found


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(20,), (1, 20), (7, 20), (2, 5, 20), (300, 20), (0, 20)])
def test_outputs_and_gradients_are_those_of_float64(
    density: float, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = Conv1D(12, 20)
    mask = torch.rand(20, 12, generator=generator) < density
    mask[0, 0] = False  # where it keeps every weight there is nothing to gain
    machine = Machine("", False, (BreakEven(64, 128, 1.0),))
    sparse = sparse_of(layer, Masks({"weight": mask}), machine)
    x = torch.randn(shape, generator=generator).requires_grad_()
    weight = (layer.weight.detach().double() * mask).requires_grad_()
    bias, inside = layer.bias.detach().double().requires_grad_(), x.detach().double().requires_grad_()
    want = inside @ weight + bias
    y = sparse(x)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
    want.square().sum().backward()
    y.square().sum().backward()
    assert weight.grad is not None and sparse.values.grad is not None
    of_survivors = sparse.plan.gather(weight.grad.t())
    for found, expected in ((x.grad, inside.grad), (sparse.values.grad, of_survivors), (sparse.bias.grad, bias.grad)):  # type: ignore[union-attr]
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]


def test_its_state_dict_is_that_of_conv1d(sparse_machine: Machine) -> None:
    model = GPT2Block(8, 2)
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    assert [m for m in fast.children() if isinstance(m, SparseTransposedLinear)] == [
        fast.c_attn, fast.c_proj, fast.c_fc, fast.c_out,
    ]  # fmt: skip
    assert list(fast.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(fast.state_dict()[name], tensor)
    assert fast.c_fc.weight.shape == (8, 32)  # type: ignore[union-attr]
    assert dense_shapes(fast)["c_fc.values"] == (8, 32)
    other = GPT2Block(8, 2)
    with pytest.raises(
        RuntimeError, match=r"c_fc.weight has \d+ non-zero weights where the mask of this layer has none"
    ):
        fast.load_state_dict(other.state_dict())
    masks.apply_(other)
    fast.load_state_dict(other.state_dict())
    assert all(torch.equal(t, fast.state_dict()[n]) for n, t in other.state_dict().items())


def test_densify_gives_the_same_class_back_bit_for_bit(sparse_machine: Machine) -> None:
    model = GPT2Block(8, 2)
    model.c_fc.bias.requires_grad_(False)
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    for twin in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        back = densify(twin)
        assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
        assert (back.c_fc.nf, back.c_fc.nx) == (32, 8)  # type: ignore[union-attr]
        for name, parameter in model.named_parameters():
            found = back.get_parameter(name)
            assert torch.equal(found, parameter) and found.requires_grad == parameter.requires_grad
            assert found.is_contiguous()
        assert list(back.state_dict()) == list(model.state_dict())
    assert fast.c_fc.shell.get_parameter("weight").is_meta  # type: ignore[union-attr]


def test_a_block_of_gpt2_equals_float64_and_trains_as_the_held_one(
    sparse_machine: Machine, generator: torch.Generator
) -> None:
    model = GPT2Block(16, 4)
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    x = torch.randn(3, 6, 16, generator=generator)
    torch.testing.assert_close(fast(x).double(), double(model, masks)(x.double()), rtol=1e-4, atol=1e-5)
    hold(model, masks)
    for net in (model, fast):
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_above_the_break_even_survivors_are_multiplied_densely(generator: torch.Generator) -> None:
    layer, machine = Conv1D(70, 80), Machine("", True, (BreakEven(64, 128, 0.1),))
    masks = Masks({"weight": torch.rand(80, 70, generator=generator) < 0.5})
    fast = sparse_of(layer, masks, machine)
    assert fast.compute_dense and report_of(fast).layers[0].choice is Choice.DENSE
    x = torch.randn(9, 80, generator=generator)
    masks.apply_(layer)
    torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-4)


def test_it_is_timed_as_it_is_used(clock: Clock) -> None:
    model, x = GPT2Block(16, 4).eval(), torch.randn(2, 5, 16)
    masks = masks_of(model)
    clock.layers, clock.models = (lambda kind: SPARSE), [DENSE]
    fast = sparsify(model, masks, example_inputs=x)
    lines = {line.name: line for line in report_of(fast).layers}
    assert lines["c_out.weight"].choice is Choice.SPARSE
    assert "inference at 2 × 5 × 64" in lines["c_out.weight"].reason
    assert any(kind.startswith("Conv1D(nf=64, nx=16) of weight (16, 64)") for kind in clock.asked)
    clock.layers, clock.models = (lambda kind: DENSE), [DENSE, DENSE]
    dense = sparsify(GPT2Block(16, 4).train(), masks, example_inputs=x)
    assert {type(m) for m in dense.children()} == {Conv1D, nn.LayerNorm}
    assert {line.choice for line in report_of(dense).layers if len(line.shape) == 2} == {Choice.DENSE}
    dense(x).sum().backward()
    assert not dense.c_fc.weight.grad[~masks["c_fc.weight"]].any()  # type: ignore[index,union-attr]


class Shifted(Conv1D):
    """A class of that name that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Windowed(Conv1D):
    """A class of that name that takes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2))


for kind in (Shifted, Windowed):
    kind.__name__ = "Conv1D"


@pytest.mark.parametrize(
    ("build", "why"), [(Shifted, "computes something else than x W + b"), (Windowed, "does not take")]
)
def test_what_is_only_called_conv1d_stays_as_it_is(build: type[Conv1D], why: str, sparse_machine: Machine) -> None:
    model = nn.Sequential(build(6, 6))
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    (line,) = report_of(fast).layers
    assert type(fast[0]) is build and line.choice is Choice.UNTOUCHED and why in line.reason  # type: ignore[index]
    assert report_of(fast).not_held == ("0.weight",)
    assert not fast[0].weight[~masks["0.weight"]].any()  # type: ignore[index,union-attr]


def test_reasons_that_keep_it_dense(sparse_machine: Machine) -> None:
    def reason(model: nn.Module, masks: Masks) -> str:
        return report_of(sparsify(model, masks, machine=sparse_machine)).layers[0].reason

    layer = Conv1D(4, 4)
    mask = torch.eye(4) > 0
    assert reason(layer, Masks({"weight": mask, "bias": mask[0]})) == "its bias is masked too"
    assert reason(layer, Masks({"weight": torch.ones(4, 4, dtype=torch.bool)})) == "its mask keeps every weight"
    assert "float64 on cpu" in reason(Conv1D(4, 4).double(), Masks({"weight": mask}))
    tied = nn.ModuleList([Conv1D(4, 4), Conv1D(4, 4)])
    tied[1].weight = tied[0].weight
    assert "shared with another layer" in reason(tied, Masks({"0.weight": mask}))
    bad = Conv1D(4, 4)
    with torch.no_grad():
        bad.weight[0, 0] = float("nan")
    with pytest.raises(MaskError, match="NaN or infinite"):
        sparsify(bad, Masks({"weight": mask}), machine=sparse_machine)


def test_a_wrong_width_is_refused(sparse_machine: Machine) -> None:
    fast = sparse_of(Conv1D(4, 6), Masks({"weight": torch.eye(6, 4) > 0}), sparse_machine)
    with pytest.raises(ValueError, match="must have 6 features, got 4"):
        fast(torch.ones(2, 4))
