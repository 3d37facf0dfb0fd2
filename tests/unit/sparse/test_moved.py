"""A compiled step whose model is moved, retyped or gets other tensors: refused by name, or right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

from secateur import Masks
from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.sparse import compile_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


class Recurrent(nn.Module):
    """An LSTM whose second bias is no parameter, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 4)
        bias = self.cell.bias_hh_l0.detach().clone()
        del self.cell.bias_hh_l0
        self.cell.register_buffer("bias_hh_l0", bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)
    )


BUILDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (9,)),
    "convolutional": (convolutional, (2, 4, 4)),
    "recurrent": (Recurrent, (3, 5)),
}


def compiled(name: str, optimizer: Callable[..., Any] = SGD, **options: Any) -> tuple[nn.Module, Any, Any]:
    """A model, its step and its optimizer; the same ones for the same name."""
    torch.manual_seed(0)
    model = BUILDS[name][0]()
    generator = torch.Generator().manual_seed(1)
    masks = Masks(
        {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in model.named_parameters() if p.dim() > 1}
    )
    made = optimizer(model.parameters(), **(options or {"lr": 0.1, "momentum": 0.9}))
    return model, compile_step(model, masks, cross_entropy, made), made


def batch(name: str, samples: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, *BUILDS[name][1], generator=generator)
    return x, torch.randint(4, (samples,), generator=generator)


def first_name(model: nn.Module) -> str:
    return next(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", BUILDS)
def test_a_model_of_another_type_is_refused_and_can_be_brought_back(name: str, kind: torch.dtype) -> None:
    model, step, _ = compiled(name)
    twin, other, _ = compiled(name)
    x, y = batch(name)
    step(x, y), other(x, y)
    model.to(kind)
    shown = str(kind).removeprefix("torch.")
    says = rf"'{first_name(model)}' must be contiguous float32 on cpu of shape .*, got {shown} on cpu of shape"
    for _ in range(2):
        with pytest.raises(SecateurError, match=says + r".*model\.float\(\).*call write_back\(\)"):
            step(x, y)
    for refused in (step.read_back, lambda: step.replace(step.masks)):
        with pytest.raises(SecateurError, match=says):
            refused()
    assert step.steps == other.steps
    model.float()
    with pytest.raises(SecateurError, match=r"changed outside the fused step; call read_back\(\).*or write_back\(\)"):
        step(x, y)
    step.write_back(), other.write_back()
    for (key, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b), key
    assert step(x, y) == pytest.approx(other(x, y), rel=1e-2)  # running statistics were rounded in between


@pytest.mark.parametrize("name", BUILDS)
def test_write_back_reaches_a_model_of_another_type_device_or_order(name: str) -> None:
    model, step, _ = compiled(name)
    twin, other, _ = compiled(name)
    x, y = batch(name)
    step(x, y), other(x, y)
    other.write_back()
    model.double()
    if name == "convolutional":
        model.to(memory_format=torch.channels_last)
    step.write_back()
    for (key, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert a.dtype is torch.float64 and torch.equal(a, b.double()), key
    with pytest.raises(SecateurError, match="must be contiguous float32 on cpu"):
        step(x, y)


@pytest.mark.parametrize("name", BUILDS)
def test_other_tensors_in_the_model_are_refused_everywhere_and_nothing_is_written(name: str) -> None:
    model, step, _ = compiled(name)
    x, y = batch(name)
    step(x, y)
    model.load_state_dict({k: torch.ones_like(v) for k, v in model.state_dict().items()}, assign=True)
    says = rf"'{first_name(model)}' of the model is another tensor than .* Compile a new step, with an optimizer over"
    for use in (
        lambda: step(x, y),
        lambda: step.predict(x),
        step.write_back,
        step.read_back,
        lambda: step.replace(step.masks),
    ):
        with pytest.raises(SecateurError, match=says):
            use()
    assert all(bool((p == 1).all()) for p in model.parameters())


def test_a_parameter_of_another_shape_or_device_is_refused() -> None:
    model, step, _ = compiled("perceptron")
    x, y = batch("perceptron")
    right = step.predict(x)
    weight = model.get_parameter("2.weight")
    before, weight.data = weight.data, torch.zeros(2, 2)
    for use in (lambda: step(x, y), step.write_back, step.read_back):
        with pytest.raises(SecateurError, match=r"'2\.weight' must have the shape \(4, 12\), .* got \(2, 2\)"):
            use()
    assert torch.equal(step.predict(x), right)  # by the step's own weights
    weight.data = before
    step.write_back()
    model.to("meta")
    with pytest.raises(SecateurError, match=r"'0\.weight' (of the model is another tensor|must be contiguous float32)"):
        step(x, y)


@pytest.mark.parametrize("how", ["assign", "data", "set anew"])
def test_running_statistics_are_followed_wherever_they_go(how: str) -> None:
    model, step, _ = compiled("convolutional")
    twin, other, _ = compiled("convolutional")
    x, y = batch("convolutional")
    step(x, y), other(x, y)
    norm = model.get_submodule("1")
    left = norm.get_buffer("running_mean")
    if how == "data":
        left.data = left.data.clone()
    elif how == "set anew":
        norm.register_buffer("running_mean", left.clone())
    else:
        norm.load_state_dict({k: v.clone() for k, v in norm.state_dict().items()}, assign=True)
        for name, parameter in twin.get_submodule("1").named_parameters():  # γ and β are the step's: put them back
            norm.register_parameter(name, dict(step_parameters(step))[f"1.{name}"])
            assert parameter.shape == norm.get_parameter(name).shape
    for _ in range(2):
        assert step(x, y) == other(x, y)
    for name, value in twin.get_submodule("1").named_buffers():
        assert torch.equal(norm.get_buffer(name), value), name
    assert torch.equal(step.predict(x), other.predict(x))


def step_parameters(step: Any) -> list[tuple[str, Tensor]]:
    """The parameters that a step was compiled with, by name."""
    return [(o.name, o.tensor) for o in step._watch._owned]


def test_running_statistics_that_the_kernels_cannot_write_are_refused() -> None:
    model, step, _ = compiled("convolutional")
    x, y = batch("convolutional")
    norm = model.get_submodule("1")
    for wrong, says in (
        (torch.zeros(6).half(), "got float16 on cpu"),
        (torch.zeros(3), r"of shape \(6,\), as when this step was compiled, got float32 on cpu of shape \(3,\)"),
        (torch.zeros(12)[::2], "not contiguous"),
        (torch.zeros(6, device="meta"), "got float32 on meta"),
        (None, "has no '1.running_mean' any more"),
    ):
        norm._buffers["running_mean"] = wrong
        for use in (lambda: step(x, y), lambda: step.predict(x)):
            with pytest.raises(SecateurError, match=rf"'1\.running_mean'.*{says}|{says}"):
                use()
    norm._buffers["running_mean"] = torch.zeros(6)
    step(x, y)


def test_options_that_are_compiled_into_a_step_cannot_change_unnoticed() -> None:
    model, step, optimizer = compiled("convolutional", SGD, lr=0.1)
    x, y = batch("convolutional")
    norm: Any = model.get_submodule("1")
    norm.momentum = 0.5
    with pytest.raises(
        SecateurError, match=r"'1' had \(eps, momentum\) = \(1e-05, 0\.1\) .* and has \(1e-05, 0\.5\) now"
    ):
        step(x, y)
    norm.momentum = 0.1
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(SecateurError, match=r"momentum was 0 when the step was compiled, and is 0\.9 now; compile"):
        step(x, y)
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(SecateurError, match="has 2 parameter groups, and had 1 when the step was compiled"):
        step(x, y)
    assert step.steps == 0


@pytest.mark.parametrize("name", BUILDS)
def test_state_loaded_into_the_optimizer_is_taken_up_or_refused(name: str) -> None:
    model, step, optimizer = compiled(name, Adam, lr=0.01)
    x, y = batch(name)
    for _ in range(3):
        step(x, y)
    step.write_back()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other, second, resumed = compiled(name, Adam, lr=0.01)
    other.load_state_dict(saved[0])
    second.read_back()
    resumed.load_state_dict(saved[1])
    with pytest.raises(
        SecateurError, match=r"state was changed outside the fused step \(load_state_dict, say\); call read_"
    ):
        second(x, y)
    second.read_back()
    assert second.steps == 3
    assert step(x, y) == second(x, y)
    step.write_back(), second.write_back()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", BUILDS)
def test_batches_that_the_kernels_cannot_read_are_refused(name: str) -> None:
    _, step, _ = compiled(name)
    x, y = batch(name)
    for inputs, targets, says in [
        (x.half(), y, "the inputs must be float32 on cpu, got float16 on cpu"),
        (x.bfloat16(), y, "got bfloat16 on cpu"),
        (x.long(), y, "got int64 on cpu"),
        (x.to("meta"), y, "got float32 on meta"),
        (x.to_sparse(), y, "got float32 on cpu, sparse_coo"),
        (x[:0], y[:0], "at least one sample"),
        (x[..., :-1], y, "the inputs must be|the layers do not fit"),
        (x, y.int(), "`targets` must be 7 class numbers, int64 on cpu, got torch.int32"),
        (x, y.float(), "got torch.float32"),
        (x, y[:-1], "`targets` must be 7 class numbers"),
        (x, y.to("meta"), "on meta"),
        (x, torch.full_like(y, 4), r"`targets` must be class numbers in \[0, 4\), got 4 at index 0"),
        (x, torch.full_like(y, -1), "got -1 at index 0"),
    ]:
        with pytest.raises(SecateurError, match=says):
            step(inputs, targets)
    assert step.steps == 0
    turned = torch._neg_view(x.neg())
    assert turned.is_neg() and step.predict(turned).equal(step.predict(x))
    assert step(turned, y) == compiled(name)[1](x, y)
