"""The two modes of a trace: one sees what the dispatcher runs, one the integers of the Python calls around it.

In inference mode the dispatcher hands over whole operations (`linear`, `scaled_dot_product_attention`, `lstm`), on all
devices alike; under `no_grad` the same ones would arrive in pieces, and in other pieces on other devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.coupling._living import Living
from secateur.coupling._macs import macs_of
from secateur.coupling._queries import Queries
from secateur.coupling.labels import Row
from secateur.coupling.numbers import Number, user_line
from secateur.coupling.rules import Book, Op, Place, apply, rule_of

__all__ = ["Compute", "Step", "Tracer"]

#: Runs an operation: (the call, the function, its arguments by position and by name) → its result.
Compute = Callable[[Op, Any, tuple[Any, ...], dict[str, Any]], Any]

_TAKE_SIZES = (
    "view reshape expand split split_with_sizes unflatten zeros ones empty full new_zeros repeat new_ones new_empty "
    "new_full narrow __getitem__ __setitem__ layer_norm rms_norm chunk tensor_split broadcast_to conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d group_norm pad channel_shuffle"
)
# Calls that take sizes: an integer given to any other is used as a value.
_SIZES = frozenset(_TAKE_SIZES.split())

# Reads of values that no operation of the dispatcher stands for.
_LEAVES_TORCH = frozenset(("tolist", "numpy", "__array__"))

# On meta these are put together of many small pieces in Python; all there is to know is the shape.
_SHAPED_AS_INPUT = frozenset(("batch_norm", "layer_norm", "group_norm", "instance_norm"))


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a trace.

    Attributes:
        place: its name, and where it was called.
        outs: shape and labels of each tensor of the result.
        ins: shape and labels of each tensor among the arguments.
        before: of a slice, the labels of its dimension in front of where it begins.
        begin: of a slice, where it begins.
        macs: how many products it adds up.
    """

    place: Place
    outs: list[tuple[tuple[int, ...], list[Row]]]
    ins: list[tuple[tuple[int, ...], list[Row]]]
    before: Row = None
    begin: int = 0
    macs: int = 0


class Calls(TorchFunctionMode):
    """Sees the Python arguments, where a `Number` still is one."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Remember the integers of the call while it runs."""
        kwargs, name, tracer = kwargs or {}, getattr(func, "__name__", ""), self._tracer
        if name in ("__get__", "size"):
            return self._read(func(*args, **kwargs), args, kwargs)
        given = args[1:] if args and isinstance(args[0], Tensor) else args
        before = tracer.sizes
        tracer.sizes = [value for value in tree_leaves((given, kwargs)) if isinstance(value, int)]
        if name == "unflatten":
            tracer.sizes = _of_all_dimensions(args[0].ndim, *tracer.sizes)
        if name not in _SIZES:
            for value in tracer.sizes:
                if isinstance(value, Number):
                    value.as_value()
        try:
            if name in _LEAVES_TORCH and isinstance(args[0], Tensor):
                tracer.living.note([args[0]], [], wrote=True, froze=range(0))
            return func(*args, **kwargs)
        finally:
            tracer.sizes = before

    def _read(self, out: Any, args: Any, kwargs: Any) -> Any:
        """Let sizes that are read from a shape remember their dimension."""
        book = self._tracer.book
        if type(out) is torch.Size:
            rows = book.rows(args[0])
            if any(ids is not None for ids in rows):
                sized = zip(out, rows, strict=True)
                return torch.Size([n if ids is None else book.measure(ids) for n, ids in sized])
        elif type(out) is int and len(args) + len(kwargs) == 2:
            ids = book.rows(args[0])[kwargs.get("dim", args[-1])]
            return out if ids is None else book.measure(ids)
        return out


class Tracer(TorchDispatchMode):
    """Applies the rules to every operation.

    Args:
        model: the model that will run.
        book: where all is written down.
        compute: runs an operation; None runs it as it is.
        labelled: False records shapes alone, and applies no rule.
    """

    def __init__(self, model: nn.Module, book: Book, compute: Compute | None = None, *, labelled: bool = True) -> None:
        super().__init__()
        self.book, self._labelled = book, labelled
        self.sizes: list[int] = []
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.steps: list[Step] = []
        self._compute = compute
        self.living, self.queries = Living(), Queries()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and asking would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and apply its rule."""
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        rule = rule_of(func, name)
        if rule is None and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        path, module = self.stack[-1]
        given = {arg.name: arg.default_value for arg in func._schema.arguments}
        given.update(zip(given, args, strict=False))
        given.update(kwargs)
        op = Op(
            name, given, None, self.book, Place(name, path, user_line() if self._labelled else ""), module, self.sizes
        )
        op.out = self._run(op, func, args, kwargs)
        if self._labelled:
            self._label(op, rule, func)
        self._write(op)
        return op.out

    def _run(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._compute is not None:
            return self._compute(op, func, args, kwargs)
        if op.name in _SHAPED_AS_INPUT and args and args[0].is_meta:
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
        if op.name == "cat" and (joined := _joined_shape(op)) is not None:
            return torch.empty(joined, dtype=args[0][0].dtype, device="meta")
        return func(*args, **kwargs)

    def _label(self, op: Op, rule: str | None, func: Any) -> None:
        frozen = self.book.labels.frozen
        before = len(frozen)
        rows = _unknown(op) if rule is None else apply(op, rule)
        first = func._schema.arguments[0].alias_info if func._schema.arguments else None
        written = first is not None and first.is_write
        wrote = any(arg.alias_info is not None and arg.alias_info.is_write for arg in func._schema.arguments)
        self.living.note(op.tensors(), op.outs(), wrote=wrote, froze=range(before, len(frozen)))
        target = next(iter(op.args.values()), None)
        for out, made in zip(op.outs(), rows, strict=True):
            if written and out is target:  # a view shares its base's labels, so the base is told too
                for n, mine, new in zip(out.shape, op.rows(out), made, strict=True):
                    if mine is not new and n > 1:
                        op.meet(mine, new)
            elif not self.book.is_known(out):
                self.book.give(out, made)
        self.queries.follow(op)

    def _write(self, op: Op) -> None:
        before, begin = None, 0
        if op.name == "slice":
            dim = op["dim"] or 0
            ids = self._rows(op.tensor("self"))[dim]
            begin = slice(op["start"], None).indices(op.tensor("self").shape[dim])[0]
            before = None if ids is None else ids[:begin]
        ins, outs = (
            [(tuple(tensor.shape), self._rows(tensor)) for tensor in side] for side in (op.tensors(), op.outs())
        )
        self.steps.append(Step(op.place, outs, ins, before, begin, macs_of(op)))

    def _rows(self, tensor: Tensor) -> list[Row]:
        return self.book.rows(tensor) if self._labelled else [None] * tensor.ndim


def _of_all_dimensions(rank: int, dim: int, *sizes: int) -> list[int]:
    """What `unflatten` says of the sizes of its result: those of one dimension alone."""
    dim = int(dim) % rank
    return [*[-1] * dim, *sizes, *[-1] * (rank - 1 - dim)]


def _joined_shape(op: Op) -> list[int] | None:
    """The shape of meta tensors of one type, joined; None where torch had better say what is wrong."""
    tensors = op.tensors()
    first, dim = tensors[0], op["dim"] or 0
    if not first.is_meta or first.ndim == 0 or not -first.ndim <= dim < first.ndim:
        return None
    dim %= first.ndim
    around = [n for k, n in enumerate(first.shape) if k != dim]
    for tensor in tensors:
        own = [n for k, n in enumerate(tensor.shape) if k != dim]
        if tensor.ndim != first.ndim or own != around or tensor.dtype != first.dtype or not tensor.is_meta:
            return None
    return [*first.shape[:dim], sum(tensor.shape[dim] for tensor in tensors), *first.shape[dim + 1 :]]


def _unknown(op: Op) -> list[list[Row]]:
    """Freeze all that an operation without a rule touches, and remember it by name."""
    for tensor in op.tensors():
        for ids in op.rows(tensor):
            if ids is not None:
                op.book.unknown.setdefault(op.name, f"{op.place.module or 'the model'} at {op.place.line}")
            op.freeze(ids, "no rule is known for it")
    return [[None] * out.ndim for out in op.outs()]
