"""The optimizer's step, the one joint that every training loop has: one pair of global hooks for all holds.

The hooks are there while a hold is, and see the steps of every torch optimizer in the process; each hold is
shown the parameters the stepping optimizer owns and looks after its own. As long, two more see what is put into a
module in the place of a held parameter or of its layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Set
from itertools import count
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from secateur.holding import _places


@runtime_checkable
class Watcher(Protocol):
    """What is told about optimizer steps.

    `owned` are the ids of the stepping optimizer's parameters; `closure` says whether the step runs the backward pass
    itself, in a closure, so that the gradients seen before it are none of its.
    """

    def _before_step(self, owned: Set[int], optimizer: Optimizer, closure: bool) -> None: ...

    def _after_step(self, owned: Set[int], optimizer: Optimizer) -> None: ...


_numbers = count()
_watchers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_handles: list[RemovableHandle] = []


def watch(watcher: Watcher) -> int:
    """Tell `watcher` about every optimizer step from now on, while it lives; return its number.

    It is there before the hooks are asked for: the collector may find the last of the others at any moment, and that
    one would take the hooks along.
    """
    number = next(_numbers)
    _watchers[number] = watcher
    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(_before))
        _handles.append(register_optimizer_step_post_hook(_after))
        _handles.append(register_module_parameter_registration_hook(_places.on_parameter))
        _handles.append(register_module_module_registration_hook(_places.on_module))
    return number


def watching() -> list[Any]:
    """Return all that are being told, oldest first."""
    return [watcher for _, watcher in sorted(_watchers.items())]


def unwatch(number: int) -> None:
    """Stop telling the watcher of this number; the last one to go takes the global hooks along."""
    _watchers.pop(number, None)
    if not watching():
        while _handles:
            _handles.pop().remove()


def _before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    owned = _owned(optimizer)
    closure = kwargs.get("closure") is not None or any(callable(each) for each in args if each is not optimizer)
    for watcher in watching():
        watcher._before_step(owned, optimizer, closure)


def _after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    owned = _owned(optimizer)
    for watcher in watching():
        watcher._after_step(owned, optimizer)


def _owned(optimizer: Optimizer) -> frozenset[int]:
    return frozenset(id(parameter) for group in optimizer.param_groups for parameter in group["params"])


def skipped(optimizer: Optimizer) -> bool:
    """Say whether the optimizer was called by a GradScaler only to skip the step (fused optimizers are)."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
