"""What an optimizer remembers of single entries of a parameter, and how it forgets them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn, optim
from torch.optim import LBFGS, Optimizer

from secateur._base import shards
from secateur._base.zeros import count_true, zero_

#: Optimizers whose memory of an entry depends on that entry alone: without others, the next step is the same.
BY_ENTRY = tuple(
    getattr(optim, name)
    for name in ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Adadelta", "Rprop", "ASGD"]
    if hasattr(optim, name)
)
# Slots that do not start at zero, and the option of the parameter's group that they start at.
_STARTS_AT = {"step_size": "lr", "sum": "initial_accumulator_value"}


def clear_slots(optimizers: Iterable[Optimizer], parameter: nn.Parameter, entries: Tensor) -> None:
    """Set what the `optimizers` remember of the `entries` (True) of `parameter` to what it is before the first step.

    Cleared are the slots that have the parameter's shape: momentum, first and second moments, Rprop's last gradient
    and step size, Adagrad's sum, ASGD's average. Counters of steps and statistics over whole rows (Adafactor) belong
    to no single entry and stay. L-BFGS remembers directions over all parameters together: it starts anew.
    """
    if count_true(entries):
        for optimizer in optimizers:
            _clear(optimizer, parameter, entries)


def starts_at(optimizer: Optimizer, parameter: Tensor, key: str) -> float:
    """Return the value of an optimizer's slot `key` for an entry of this parameter that it has never seen."""
    group = next(group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
    return float(group.get(_STARTS_AT.get(key, ""), 0.0))


def _clear(optimizer: Optimizer, parameter: nn.Parameter, entries: Tensor) -> None:
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()
        return
    state: dict[str, Any] | None = optimizer.state.get(parameter)
    if not state:
        return
    where = shards.local_mask(entries, parameter)
    for key, slot in state.items():
        if isinstance(slot, Tensor) and slot.shape == parameter.shape and key != "step":
            start, here = starts_at(optimizer, parameter, key), shards.local(slot)
            if start == 0:
                zero_(here, where)
            else:
                here.masked_fill_(where, start)
