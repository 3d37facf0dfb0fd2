"""What the kernels cannot do is refused: second derivatives, exporters, tracers, transforms. Nothing is dropped."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from secateur import DerivativeError, Masks, SecateurError
from secateur._base import door
from secateur.sparse import Machine, densify, sparsify
from secateur.sparse.layers import OneDnnLinear, onednn_available


class Classifier(nn.Module):
    """A recurrent layer of the kind asked for, and a dense head."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cell, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "chain": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (3, 6)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 2), (3, 2, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2), (3, 2, 4, 4)),
    "network": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2)
        ),
        (3, 2, 3, 3),
    ),
    "lstm": (lambda: Classifier(nn.LSTM), (3, 2, 4)),
    "gru": (lambda: Classifier(nn.GRU), (3, 2, 4)),
}


def sparsified(name: str, machine: Machine, *, compute_dense: bool = False) -> tuple[nn.Module, Tensor]:
    build, shape = MODELS[name]
    model = build()
    masks = Masks(
        {n: torch.rand(p.shape) < 0.4 for n, p in model.named_parameters() if p.dim() > 1 and "head" not in n}
    )
    fast = sparsify(model, masks, machine=machine)
    for module in fast.modules():
        if hasattr(module, "compute_dense"):
            module.compute_dense = compute_dense
    return fast, torch.randn(shape)


def penalty(model: nn.Module, x: Tensor) -> Tensor:
    """(‖∂y/∂x‖ − 1)², the gradient penalty."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (grad.norm() - 1).square()


@pytest.mark.parametrize("name", MODELS)
def test_a_second_derivative_is_refused_with_the_way_out(name: str, sparse_machine: Machine) -> None:
    fast, x = sparsified(name, sparse_machine)
    with pytest.raises(
        DerivativeError, match=r"no second derivatives.* secateur\.densify\(model\), and secateur\.hold"
    ):
        penalty(fast, x)
    with pytest.raises(DerivativeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast(x).square().sum().backward(create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):  # what autograd itself raises, too
        torch.autograd.functional.hessian(lambda x: fast(x).square().sum(), x)
    fast(x).sum().backward()  # first derivatives go on as before
    penalty(densify(fast), x).backward()


def test_without_the_kernels_it_is_refused_too(monkeypatch: pytest.MonkeyPatch, sparse_machine: Machine) -> None:
    monkeypatch.setattr(door, "native", None)
    fast, x = sparsified("chain", sparse_machine)
    with pytest.raises(DerivativeError):
        penalty(fast, x)


@pytest.mark.parametrize("name", ["linear", "conv2d", "lstm"])
def test_what_is_computed_densely_has_all_derivatives(name: str, sparse_machine: Machine) -> None:
    fast, x = sparsified(name, sparse_machine, compute_dense=True)
    dense = densify(fast)
    for model in (fast, dense):
        penalty(model, x).backward()
    (values,) = [p.grad for n, p in fast.named_parameters() if n.endswith(("values", "values_hh_l0"))]
    (weight,) = [p.grad for n, p in dense.named_parameters() if n.endswith(("weight_hh_l0",)) or n == "weight"]
    plan: Any = fast.plan if name != "lstm" else fast.cell.plans[0].parts[1]  # type: ignore[union-attr]
    torch.testing.assert_close(values, plan.gather(weight))


@pytest.mark.skipif(not onednn_available(), reason="torch without oneDNN")
def test_dense_layers_through_onednn_have_all_derivatives() -> None:
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    fast = nn.Sequential(*(OneDnnLinear.from_dense(m) if isinstance(m, nn.Linear) else copy.deepcopy(m) for m in plain))
    x = torch.randn(3, 5)
    for model in (plain, fast):
        penalty(model, x).backward()
    for one, two in zip(fast.parameters(), plain.parameters(), strict=True):
        if two.grad is not None:  # of the last bias the penalty knows nothing
            torch.testing.assert_close(one.grad, two.grad)


def dual(model: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return model(forward_ad.make_dual(x, torch.ones_like(x)))


def batched(model: nn.Module, x: Tensor) -> object:
    with torch.enable_grad():
        return torch.autograd.functional.jacobian(model, x, vectorize=True)


LOOKERS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "export": lambda model, x: torch.export.export(model, (x,)),
    "onnx": lambda model, x: torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False),
    "trace": torch.jit.trace,
    "script": lambda model, x: torch.jit.script(model),
    "script of a part": lambda model, x: torch.jit.script(nn.ModuleDict({"part": model})),
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "make_fx": lambda model, x: make_fx(model)(x),
    "vmap": lambda model, x: torch.func.vmap(model)(x[None]),
    "func.grad": lambda model, x: torch.func.grad(lambda x: model(x).sum())(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x,)),
    "forward mode": dual,
    "gradients in batches": batched,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("how", LOOKERS)
@pytest.mark.parametrize("name", ["linear", "chain", "network", "lstm"])
def test_who_would_look_into_a_layer_is_told_of_densify(
    name: str, how: str, grad: bool, sparse_machine: Machine
) -> None:
    """With or without gradients: without, `jit.trace` and forward mode went through, to wrong results."""
    fast, x = sparsified(name, sparse_machine)
    with torch.set_grad_enabled(grad), pytest.raises(SecateurError, match=r"cannot be exported, traced or transformed"):
        LOOKERS[how](fast.eval(), x)
    fast(x)  # and nothing is left behind by the attempt


def test_the_way_out_of_an_export_works(sparse_machine: Machine) -> None:
    fast, x = sparsified("network", sparse_machine)
    dense = densify(fast.eval())
    exported = torch.export.export(dense, (x,)).module()
    torch.testing.assert_close(exported(x), fast(x), rtol=1e-4, atol=1e-5)
