"""How a model calls its blocks, heard without running them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from secateur._base.errors import UnfitModelError
from secateur.lab.language._skeleton import IN_MEMORY, Skeleton
from secateur.measures import Batch, Probe, moved
from secateur.pruning.blocks import Call, only_tensor, places_of, with_argument


class Listener:
    """Hears how a model without weights calls its blocks."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton, self._model, self._blocks = skeleton, skeleton.model, skeleton.blocks
        self._found_place: int | str | None = None

    def calls(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, list[Call]]]:
        """For each batch what the first block reads, and how each block is called with None in that place.

        The blocks do not run: they hand on noise, so that what else they are called with is seen not to depend on it.
        """
        pool: dict[tuple[Any, ...], list[Tensor]] = {}
        template: Any = None
        with self._skeleton.before():
            for number, batch in enumerate(moved(self._model, batches)):
                template = self._template(batch) if number == 0 else template
                heard = self._heard(batch, template, number)
                if number == 0:
                    self._found_place = self._place(heard, self._heard(batch, template, 1))
                args, kwargs = heard[0][0]
                hidden = args[self.place] if isinstance(self.place, int) else kwargs[self.place]
                yield hidden, [_pooled(with_argument(call, self.place, None), pool) for call, _ in heard]

    @property
    def place(self) -> int | str:
        """In which argument each block is handed what the one before it made; known once blocks have been heard."""
        assert self._found_place is not None
        return self._found_place

    def _template(self, batch: Batch) -> Any:
        """What the first block returns: a tensor, or a tuple that begins with one."""
        found: list[Call] = []

        def _first(*args: Any, **kwargs: Any) -> None:
            found.append((args, kwargs))
            raise _Reached

        with self._instead({self._blocks[0]: _first}):
            self._run(batch)
        with self._skeleton.block(0):
            return self._model.get_submodule(self._blocks[0])(*found[0][0], **found[0][1])

    def _heard(self, batch: Batch, template: Any, seed: int) -> list[tuple[Call, Tensor]]:
        """How all blocks are called, each with the noise that it handed on."""
        found: list[tuple[Call, Tensor]] = []
        order: list[str] = []
        noise = torch.Generator().manual_seed(seed)
        shape = only_tensor(template, self._blocks[0])

        def _stub(name: str, *args: Any, **kwargs: Any) -> Any:
            rows = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() == shape.dim())
            out = torch.randn(rows.shape, generator=noise).to(shape.device, shape.dtype)
            order.append(name)
            found.append(((args, dict(kwargs)), out))
            if name == self._blocks[-1]:
                raise _Reached
            return out if isinstance(template, Tensor) else (out, *template[1:])

        with self._instead({name: _Named(_stub, name) for name in self._blocks}):
            self._run(batch)
        if order != self._blocks:
            raise UnfitModelError(
                f"the blocks of {type(self._model).__name__} are not called once each in their order, but as "
                f"{', '.join(order) or 'none'}. {IN_MEMORY}"
            )
        return found

    def _place(self, heard: Sequence[tuple[Call, Tensor]], again: Sequence[tuple[Call, Tensor]]) -> int | str:
        """The one argument in which each block is handed the output of the one before it."""
        places = {place for each in (heard, again) for place in places_of(each) or [None]}
        place = places.pop()
        if places or place is None:
            raise UnfitModelError(
                f"the blocks of {type(self._model).__name__} are not each handed the output of the one before it, in "
                f"the same argument. {IN_MEMORY}"
            )
        for (call, _), (other, _) in zip(heard, again, strict=True):
            if not _equal(with_argument(call, place, None), with_argument(other, place, None)):
                raise UnfitModelError(
                    f"the blocks of {type(self._model).__name__} are called with what depends on the outputs of those "
                    f"before them. {IN_MEMORY}"
                )
        return place

    def _run(self, batch: Batch) -> None:
        try:
            Probe(self._model, {}, batch, None).run()
        except _Reached:
            return

    @contextmanager
    def _instead(self, forwards: Mapping[str, Any]) -> Iterator[None]:
        """Let blocks do something else for a while; all else about them stays, since models ask for it."""
        with ExitStack() as stack:
            for name, forward in forwards.items():
                module: Any = self._model.get_submodule(name)
                module.forward = forward
                stack.callback(module.__dict__.pop, "forward", None)
            yield


class _Reached(Exception):
    """Thrown where nothing behind is wanted."""


class _Named:
    """A function that is told who called it."""

    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._name, *args, **kwargs)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return one is other or bool(one == other)


def _pooled(value: Any, pool: dict[tuple[Any, ...], list[Tensor]]) -> Any:
    """The same, with one tensor in the place of all that are equal: batches are mostly called with the same masks."""
    if isinstance(value, Tensor):
        known = pool.setdefault((value.shape, value.dtype, value.device), [])
        same = next((tensor for tensor in known if tensor is value or torch.equal(tensor, value)), None)
        if same is None:
            known.append(value)
        return value if same is None else same
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _pooled(item, pool) for key, item in value.items()}
    if type(value) is list:
        return [_pooled(item, pool) for item in value]
    return tuple(_pooled(item, pool) for item in value) if type(value) is tuple else value
