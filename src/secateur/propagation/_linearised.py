"""A network as importance sees it: everything between its layers passes on what it gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

#: Functions of one tensor that importance passes through as if they were not there; in place or not.
_PASSING = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
    *("softsign", "tanh", "sigmoid", "hardsigmoid", "hardtanh", "hardswish", "logsigmoid", "threshold", "softmax"),
    *("log_softmax", "tanhshrink", "hardshrink", "softshrink", "clamp", "clip", "abs", "normalize"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    *("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
)


class Linearised(TorchFunctionMode):
    """While it is entered, functions of one tensor pass it on, and pooling adds up.

    With `scaled`, batch norms scale by |γ|/√(σ² + ε) instead of passing on.

    Whatever else a model does between its layers (adding, concatenating, reshaping) is left as it is. What matters is
    the backward pass: the gradient that reaches a unit is Σ over all paths of products of absolute weights.
    """

    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self._rules = _RULES | {"batch_norm": _scale if scaled else _pass}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        rule = self._rules.get((resolve_name(function) or "").rpartition(".")[2].rstrip("_"))
        if rule is None or (not args and "input" not in given):
            return function(*args, **given)
        x = args[0] if args else given.pop("input")
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return function(*args, **(dict(kwargs or {})))
        return rule(function, x, args[1:], given)


def _pass(function: Any, x: Tensor, rest: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
    return x


def _scale(function: Any, x: Tensor, rest: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
    """Batch norm, with the arguments in the order of `F.batch_norm` or of `torch.batch_norm`."""
    names = ("running_mean", "running_var", "weight", "bias")
    if (resolve_name(function) or "").startswith("torch.batch_norm"):
        names = ("weight", "bias", "running_mean", "running_var")
    named = dict(zip(names, rest, strict=False)) | given
    scale = torch.ones((), dtype=x.dtype, device=x.device)
    if named.get("weight") is not None:
        scale = named["weight"].to(x.dtype).abs()
    if named.get("running_var") is not None:
        eps = given.get("eps", rest[-1] if rest and isinstance(rest[-1], float) else 1e-5)
        scale = scale / (named["running_var"].to(x.dtype) + eps).sqrt()
    return x * (scale.reshape(1, -1, *[1] * (x.dim() - 2)) if scale.dim() else scale)


def _add_up(function: Any, x: Tensor, rest: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Max pooling: every input of a window receives what the window's output does."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    named = dict(zip(names, rest, strict=False)) | given
    named.pop("return_indices", None)
    dims = int((resolve_name(function) or "").rpartition("max_pool")[2][0])
    size = _all(named["kernel_size"], dims)
    if any(step != 1 for step in _all(named.pop("dilation", 1), dims)):
        return function(x, *rest, **given)
    stride = _all(named.get("stride") or size, dims)
    padding, ceil = _all(named.get("padding", 0), dims), bool(named.get("ceil_mode", False))
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    return pool(x, size, stride, padding, ceil, True) * math.prod(size)


def _adapt(function: Any, x: Tensor, rest: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Adaptive max pooling, where its windows are all alike; elsewhere as it is."""
    dims = int((resolve_name(function) or "").rpartition("max_pool")[2][0])
    sizes = _all(rest[0] if rest else given["output_size"], dims)
    wanted = [size or have for size, have in zip(sizes, x.shape[-dims:], strict=True)]
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1]
    windows = [math.ceil(have / want) for have, want in zip(x.shape[-dims:], wanted, strict=True)]
    return pool(x, wanted if dims > 1 else wanted[0]) * math.prod(windows)


def _all(value: Any, dims: int) -> list[Any]:
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values * dims if len(values) == 1 else values


_RULES: dict[str, Callable[[Any, Tensor, tuple[Any, ...], dict[str, Any]], Any]] = {
    **dict.fromkeys(_PASSING, _pass),
    **{f"max_pool{n}d": _add_up for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _adapt for n in (1, 2, 3)},
}
