"""What a comparison runs under: nothing drawn, and an eye on the precision that the model's own code computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Precision", "without_dropout"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_ROUGH = 1e-2  # where the model computes in half precision whatever it is given
_NAMES = (
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout dropout_ "
    "alpha_dropout_ feature_dropout_ feature_alpha_dropout_"
)
_DROPOUTS = frozenset(_NAMES.split())


class Precision(TorchDispatchMode):
    """Notes the lowest precision of floating-point results, for a model may cast inside.

    Args:
        dtype: of the model and its inputs.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype, self._seen = dtype, {dtype}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and asking would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at the types of its results."""
        out = func(*args, **(kwargs or {}))
        self._seen.update(t.dtype for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point())
        return out

    @property
    def tolerance(self) -> float:
        """What is allowed of a relative difference: 1e-10 in float64, 1e-5 in float32."""
        return max(_TOLERANCE.get(dtype, _ROUGH) for dtype in self._seen)


class _NoDropout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if name == "bernoulli_" and args[0].is_floating_point():  # stochastic depth: the mean, which is then 1
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        if name == "scaled_dot_product_attention" and (kwargs.get("dropout_p") or len(args) > 4):
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**kwargs}
            kwargs.pop("dropout_p", None)
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_dropout(model: nn.Module, mode: str) -> Iterator[None]:
    """Turn dropout off in train mode, and draw means: two models of different widths cannot draw the same.

    Args:
        model: a copy that nobody else uses.
        mode: "train", or "eval" where nothing is to do.
    """
    if mode != "train":
        yield
        return
    for module in model.modules():
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0
    with _NoDropout():
        yield
