"""The dense weight of a sparse layer: built when asked for, to be read. Writing into it would change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

__all__ = ["Built", "built"]

_IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
_WRITES = {"__setitem__", "__set__", *(f"__i{name}__" for name in _IN_PLACE)}


class Built(Tensor):
    """A dense tensor made of surviving values, and every view of it: read as any tensor, refuses to be written.

    What is computed from it is an ordinary tensor, and so is what a copy or a pickle of it brings.
    """

    _whose = "a sparse layer"
    _live = False  # whether it is more than numbers: connected to the values by autograd

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run any function of torch but those that write."""
        named = {} if kwargs is None else kwargs
        source = next((each for each in _flat(args) if isinstance(each, Built)), None)
        _refuse_writing(getattr(func, "__name__", ""), args, named)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **named)
            return result if source is None else _views(result, source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(_plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)


def built(tensor: Tensor, whose: str, *, live: bool) -> Tensor:
    """Mark a tensor that was built for reading; `whose` names layer and weight: "SparseLinear.weight"."""
    made = tensor.as_subclass(Built)
    made._whose, made._live = whose, live
    return made


def _flat(args: Iterable[Any]) -> Iterable[Any]:
    for each in args:
        if isinstance(each, tuple | list):
            yield from each
        else:
            yield each


def _is_parameter(tensor: Tensor) -> bool:
    """Whether somebody made a parameter of it (`load_state_dict(assign=True)`): then it is his, to be trained."""
    return "_is_param" in tensor.__dict__


def _refuse_writing(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    writes = name in _WRITES or (name.endswith("_") and not name.endswith("__"))
    written = (args[:1] or tuple(kwargs.values())[:1]) if writes else ()  # nn.init passes all by keyword
    for target in _flat([kwargs.get("out"), *written]):
        if isinstance(target, Built) and not _is_parameter(target) and (name != "requires_grad_" or target._live):
            raise SecateurError(
                f"{target._whose} is built from the surviving values when it is asked for, and a write into it "
                f"({name}) would be lost. Write into the values (model.parameters()), bring a whole weight in by "
                "load_state_dict, or take secateur.densify(model), whose weights are tensors of their own."
            )


def _views(result: Any, source: Built) -> Any:
    """Mark what shares the memory of the `source`."""
    if type(result) in (tuple, list):
        return type(result)(_views(each, source) for each in result)
    if type(result) is not Tensor or _is_parameter(source) or result.layout is not torch.strided:
        return result
    if result.untyped_storage()._cdata != source.untyped_storage()._cdata:
        return result
    return built(result, source._whose, live=source._live and result.requires_grad)


def _plain(tensor: Built) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.as_subclass(Tensor)
        return nn.Parameter(plain.detach(), tensor.requires_grad) if _is_parameter(tensor) else plain
