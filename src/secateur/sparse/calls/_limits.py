"""What the kernels cannot do, said instead of done wrongly: second derivatives, and being looked into."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad

from secateur._base.errors import DerivativeError, SecateurError

__all__ = ["first_order", "looked_into", "refuse_lookers", "text_for_lookers"]

_transform: Callable[[], object | None] = torch._C._functorch.peek_interpreter_stack  # type: ignore[attr-defined]
_tracing: Callable[[], object | None] = torch._C._get_tracing_state  # type: ignore[attr-defined]
_mode: Callable[[Any], object | None] = torch._C._get_dispatch_mode  # type: ignore[attr-defined]
_has_numbers: Callable[[Tensor], bool] = torch._C._has_storage  # type: ignore[attr-defined]
_PROXY = torch._C._TorchDispatchModeKey.PROXY  # type: ignore[attr-defined]


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a `backward` that is to be differentiated again, or to run in a transform: kernels leave no graph.

    Autograd records what backward does if, and only if, it was called with `create_graph=True`. The
    `once_differentiable` of torch is not enough: where the incoming gradient is a constant it returns tensors without
    a graph, and a gradient penalty made of them is left out of the loss without a word.
    """

    @wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise DerivativeError(
                "sparse layers have no second derivatives, and this backward was called with create_graph=True (as for "
                "a gradient penalty or a Hessian). Train densely instead: model = secateur.densify(model), and "
                "secateur.hold(model, masks) keeps its zeros"
            )
        if not all(grad is None or _has_numbers(grad) for grad in grads):  # many at once: a vectorised Jacobian
            raise SecateurError(text_for_lookers())
        return backward(ctx, *grads)

    return once


def looked_into(x: Any) -> bool:
    """Tell whether `x` is more than its numbers: a stand-in of an exporter or a tracer, or a tensor in a transform."""
    # This runs at every forward, between kernels that take microseconds.
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return False  # `torch.compile` breaks its graph at the kernels, and all is well
    if forward_ad._current_level >= 0 or _transform() or _tracing() or _mode(_PROXY):
        return True
    return type(x) is not Tensor and (isinstance(x, fx.Proxy) or torch.compiler.is_exporting())


def refuse_lookers(x: Any) -> None:
    """Raise if somebody wants to look into a sparse layer, and would find nothing there."""
    if looked_into(x):
        raise SecateurError(text_for_lookers())


def text_for_lookers() -> str:
    """Say what does not see into a sparse layer, and the way out."""
    return (
        "a sparse layer cannot be exported, traced or transformed (torch.export, torch.onnx, torch.jit, torch.fx, "
        "torch.func, forward-mode derivatives): its kernels are no torch operations. Take secateur.densify(model) "
        "there, an ordinary model of the same weights; secateur.export does so by itself"
    )
