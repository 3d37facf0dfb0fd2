"""What is put in the place of a held parameter, or of its layer, later on: it is held from that moment."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from secateur.holding._slot import Shelf, Slot

__all__ = ["on_module", "on_parameter"]


def on_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    """Mask the gradients of a parameter that replaces a held one, as `load_state_dict(assign=True)` does."""
    for hold in Shelf.seen(module):
        for slot in hold._slots:
            if parameter is not None and slot.attribute == name and slot.owner() is module:
                slot.hook(parameter)


def on_module(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Hold what comes under the names of held parameters when a layer is replaced by another.

    Where it does not fit its mask nothing is done here: the next optimizer step and `check` refuse it by name.
    """
    old = parent._modules.get(name)
    if old is None or new is None or old is new:
        return
    for hold in {id(hold): hold for module in old.modules() for hold in Shelf.seen(module)}.values():
        hold._moved = True  # the next step looks again, whatever is found here
        for slot, at in _slots_below(hold, parent, name):
            _move(hold, slot, new, at)


def _slots_below(hold: Any, parent: nn.Module, name: str) -> list[tuple[Slot, str]]:
    """Return the slots whose names lead through this child, each with the way from there."""
    root = hold._root()
    paths = [] if root is None else [p for p, m in root.named_modules(remove_duplicate=False) if m is parent]
    ways = [f"{path}.{name}." if path else f"{name}." for path in paths]
    return [(slot, slot.name.removeprefix(way)) for slot in hold._slots for way in ways if slot.name.startswith(way)]


def _move(hold: Any, slot: Slot, new: nn.Module, at: str) -> None:
    path, _, attribute = at.rpartition(".")
    try:
        owner = new.get_submodule(path)
    except AttributeError:
        return
    parameter = owner._parameters.get(attribute)
    if parameter is None or parameter is slot.parameter() or parameter.shape != hold.masks[slot.name].shape:
        return
    slot.move(owner)
    slot.hook(parameter)
    Shelf.of(owner).kept.append(hold)
    warnings.warn(
        f"{slot.name!r} belongs to another layer than when it was held; it is held by the same mask, and its pruned "
        "weights become zero at the next optimizer step, or now by `project()`. To train it densely, `release()` the "
        "hold (secateur.held(model) finds it) and hold the other parameters alone.",
        stacklevel=4,
    )
