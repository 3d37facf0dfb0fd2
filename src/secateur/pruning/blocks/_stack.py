"""A model as a stack of blocks: what each is called with, and how the output of one becomes the input of the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.measures import Batch, Params, Probe, moved

#: The arguments of one call.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Stage(nn.Module):
    """One block of a model under its name there, as if it were all of it: called with (args, kwargs), one tensor out.

    Its parameters have the names that they have in the model, so masks, scopes and messages speak of those.
    """

    def __init__(self, name: str, block: nn.Module) -> None:
        super().__init__()
        self._path = name
        *above, last = name.split(".")
        here: nn.Module = self
        for part in above:
            here.add_module(part, nn.Module())
            here = here.get_submodule(part)
        here.add_module(last, block)

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Call the block."""
        return only_tensor(self.get_submodule(self._path)(*args, **kwargs), self._path)


def only_tensor(output: Any, name: str) -> Tensor:
    """The output of a block that the next one reads: itself, or the first of a tuple.

    Raises:
        UnfitModelError: anything else.
    """
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        raise UnfitModelError(
            f"Block {name!r} returns a {type(first).__name__}: expected a tensor, or a tuple that begins with one. "
            "Name other modules in `blocks`."
        )
    return first


class _Reached(Exception):
    """Thrown where the block whose inputs are wanted is called."""


@dataclass
class Stack:
    """The calls of a model's blocks on some batches, held for one block at a time.

    Attributes:
        model: the model.
        names: its blocks, in the order in which they are called.
        params: parameters that are pruned, of all blocks.
        batches: what the model is run on.
        calls: what the block that is next is called with, one call per batch.
        targets: the dense block's outputs on the dense model's inputs, one per batch; None where nobody wants them.
    """

    model: nn.Module
    names: Sequence[str]
    params: Params
    batches: Iterable[Batch]
    calls: list[Call] = field(default_factory=list)
    targets: list[Tensor] | None = None
    _places: list[int | str] | None = field(default=None, repr=False)
    _rest: list[list[Call]] = field(default_factory=list, repr=False)
    _dense: list[Call] = field(default_factory=list, repr=False)
    _outputs: list[list[Tensor]] = field(default_factory=list, repr=False)

    def begin(self, *, targets: bool) -> None:
        """Run the model once, and see how its blocks hang together."""
        for number, batch in enumerate(self._moved()):
            heard = self._heard(batch)
            self._places = places_of([(call.call, call.output) for call in heard]) if number == 0 else self._places
            self.calls.append(heard[0].call)
            if self._places is not None:
                later = zip(heard[1:], self._places, strict=True)
                self._rest.append([with_argument(call.call, place, None) for call, place in later])
            elif targets:
                self._outputs.append([call.output for call in heard])
        if not self.calls:
            raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")
        self._dense = list(self.calls) if targets and self._places is not None else []

    def stage(self, number: int) -> Stage:
        """One block on its own, not pruned yet, and the `targets` for it."""
        stage = Stage(self.names[number], self.model.get_submodule(self.names[number]))
        if self._dense:
            self.targets = [stage(*call) for call in self._dense]
            self._dense = self._behind(number, self.targets)
        elif self._outputs:
            self.targets = [outputs[number] for outputs in self._outputs]
        return stage

    def go_on(self, number: int, stage: Stage) -> None:
        """Turn to the block behind `stage`, which has been pruned: what will it be called with now?"""
        if number + 1 == len(self.names):
            return
        if self._places is None:
            self.calls = [self._until(self.names[number + 1], batch) for batch in self._moved()]
        else:
            self.calls = self._behind(number, [stage(*call) for call in self.calls])

    def _behind(self, number: int, outputs: Sequence[Tensor]) -> list[Call]:
        """The calls of the block behind, if this one makes these outputs."""
        if self._places is None or number + 1 == len(self.names):
            return []
        place = self._places[number]
        return [with_argument(rest[number], place, output) for rest, output in zip(self._rest, outputs, strict=True)]

    def _moved(self) -> Iterator[Batch]:
        return moved(self.model, self.batches)

    def _run(self, batch: Batch) -> None:
        Probe(self.model, self.params, batch, None).run()

    def _heard(self, batch: Batch) -> list[_Heard]:
        found: list[_Heard] = []
        handles = [
            self.model.get_submodule(name).register_forward_hook(_listen(found, name), with_kwargs=True)
            for name in self.names
        ]
        try:
            self._run(batch)
        finally:
            for handle in handles:
                handle.remove()
        order = [call.name for call in found]
        if order != list(self.names):
            missing = [name for name in self.names if name not in order]
            what = f"{', '.join(missing)} never ran" if missing else f"they were called as {', '.join(order)}"
            raise UnfitModelError(
                f"`blocks` are to be called once each, in the order {', '.join(self.names)}, but {what}. Name other "
                "modules, or prune without `blocks`."
            )
        return found

    def _until(self, name: str, batch: Batch) -> Call:
        found: list[Call] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append((args, kwargs))
            raise _Reached

        handle = self.model.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run(batch)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]


@dataclass(frozen=True)
class _Heard:
    """One call of one block in the dense model."""

    name: str
    call: Call
    output: Tensor


def _listen(found: list[_Heard], name: str) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found.append(_Heard(name, (args, dict(kwargs)), only_tensor(output, name)))

    return hook


def places_of(heard: Sequence[tuple[Call, Tensor]]) -> list[int | str] | None:
    """In which argument each block is handed the output of the one before it; None where it is not, as it is.

    Args:
        heard: of each block in turn its call and its output.
    """
    found: list[int | str] = []
    for (_, output), ((args, kwargs), _) in pairwise(heard):
        place = next((key for key, value in [*enumerate(args), *kwargs.items()] if _same(value, output)), None)
        if place is None:
            return None
        found.append(place)
    return found


def _same(value: Any, output: Tensor) -> bool:
    return value is output or (
        isinstance(value, Tensor)
        and value.shape == output.shape
        and value.dtype == output.dtype
        and torch.equal(value, output)
    )


def with_argument(call: Call, place: int | str, value: Any) -> Call:
    """The same call with another value in one place: a position, or a keyword."""
    args, kwargs = call
    if isinstance(place, int):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, kwargs | {place: value}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model as in use: no dropout, and no memory of earlier tokens; modes are put back."""
    modes = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    caches = getattr(config, "use_cache", None)
    try:
        model.eval()
        if caches is not None:
            config.use_cache = False  # pyright: ignore[reportOptionalMemberAccess]
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if caches is not None:
            config.use_cache = caches  # pyright: ignore[reportOptionalMemberAccess]
