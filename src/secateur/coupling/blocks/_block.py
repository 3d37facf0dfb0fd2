"""What a residual block is, and the module that stands in its place when its branch is gone."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

__all__ = ["FUNCTION", "ResidualBlock", "Shortcut", "lies_in", "remove_"]

#: Of `ResidualBlock.after`: a ReLU that is called as a function and is no module of the block.
FUNCTION = "*"
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ResidualBlock:
    """A module that computes f(x + branch(x)), or x + branch(x): without its branch it is f, or nothing at all.

    Attributes:
        path: of the module.
        argument: the name of the argument that x is; "" for the first one by position.
        after: what f is: "" where there is none, the path of one of its modules that have no weights, or "*" for a ReLU
            that is no module.
        place: where the result stands in what the module gives out; −1 where that is all of it.
        length: of the tuple that it gives out; 0 where it is no tuple.
        why: what made it go.
    """

    path: str
    argument: str = ""
    after: str = ""
    place: int = -1
    length: int = 0
    why: str = ""

    @property
    def function(self) -> str:
        """The path, inside the block, of the module that stands after the sum; "" where that is no module of it."""
        return "" if self.after == FUNCTION else self.after

    def __str__(self) -> str:
        return f"{self.path}: {self.why}" if self.why else self.path


class Shortcut(nn.Module):
    """What is left of a residual block without its branch: its input goes on, through what stood after the sum.

    It keeps the block's plain attributes (numbers, texts), and those of its modules, for code that reads them.

    Args:
        block: the block.
        found: how it takes its input and gives it out.

    Shape: any → the same, in the tuple that the block gave out.
    """

    def __init__(self, block: nn.Module, found: ResidualBlock) -> None:
        super().__init__()
        for name, value in vars(_attributes_of(block)).items():
            if not hasattr(self, name):
                setattr(self, name, value)
        self._found = found
        self._after = _out_of_place(function_of(block, found.after))
        self.train(block.training)

    def _passed(self, *args: Any, **kwargs: Any) -> Any:
        """Return the input of the block."""
        found = self._found
        x: Tensor = kwargs[found.argument] if found.argument else args[0]
        out = x if self._after is None else self._after(x)
        if not found.length:
            return out
        return tuple(out if place == found.place else None for place in range(found.length))

    # Whatever the block was called with, this one is: only its input is looked at.
    forward = _passed

    def extra_repr(self) -> str:
        """Return which block it stands for."""
        return self._found.path


def function_of(block: nn.Module, after: str) -> nn.Module | None:
    """Return what stands after the sum of a block."""
    return None if not after else nn.ReLU() if after == FUNCTION else block.get_submodule(after)


def _out_of_place(function: nn.Module | None) -> nn.Module | None:
    """Return a function that leaves its input as it is: what it overwrote was a sum, and is now the block's input."""
    if function is None or not any(getattr(each, "inplace", False) for each in function.modules()):
        return function
    made = copy.deepcopy(function)
    for each in made.modules():
        if getattr(each, "inplace", False):
            vars(each).update(inplace=False)
    return made


def _attributes_of(module: nn.Module) -> SimpleNamespace:
    own = {name: value for name, value in vars(module).items() if name[0] != "_" and isinstance(value, _PLAIN)}
    own.pop("training", None)
    return SimpleNamespace(**{name: _attributes_of(child) for name, child in module.named_children()}, **own)


def lies_in(name: str, blocks: Iterable[ResidualBlock]) -> ResidualBlock | None:
    """Return the block that a module or tensor of this name is, or is a part of; None where it is of none."""
    return next((each for each in blocks if name == each.path or name.startswith(f"{each.path}.")), None)


def remove_(model: nn.Module, blocks: Iterable[ResidualBlock]) -> None:
    """Put shortcuts in the places of residual blocks, in place; those that are shortcuts already stay.

    Args:
        model: the model.
        blocks: as `residual_blocks` finds them.
    """
    for found in blocks:
        path, _, last = found.path.rpartition(".")
        parent = model.get_submodule(path)
        block = getattr(parent, last)
        if not isinstance(block, Shortcut):
            setattr(parent, last, Shortcut(block, found))
