"""An optimizer goes on with the sparse model: what it remembers of the surviving weights goes along, entry by entry."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.behind import trainers
from secateur._base.errors import SecateurError
from secateur.holding import BY_ENTRY, held
from secateur.masks import Masks

State = dict[str, Any]


def refuse_to_carry(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise unless this optimizer is of this model, and remembers of an entry what depends on that entry alone."""
    if not isinstance(optimizer, BY_ENTRY):
        known = ", ".join(kind.__name__ for kind in BY_ENTRY)
        raise SecateurError(
            f"`optimizer` must remember each entry by itself, as {known} do, got {type(optimizer).__name__}: what is "
            "remembered of several entries together does not say what it would be of the survivors. Sparsify without "
            "it, and make a new optimizer of the sparse model's parameters."
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise SecateurError("`optimizer` must be the one that trains this model, got one with none of its parameters.")
    if trainers(model):
        raise SecateurError(
            "`optimizer` trains the model in a compiled step or another sparsified model, which would go on with the "
            "old parameters. Let go of that first, or sparsify without the optimizer."
        )


def carry_on(optimizer: Optimizer, model: nn.Module, fast: nn.Module, masks: Masks) -> None:
    """Let the optimizer of a dense model go on with the sparse one made of it, in place.

    Groups and their options stay; each parameter is replaced by the one that stands for it, and each slot that has the
    parameter's shape by its surviving entries. Counters stay.

    Args:
        optimizer: of the dense model; after this of the sparse one.
        model: the dense model.
        fast: the sparse one.
        masks: what survived.
    """
    names = {name: parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    replaced = _replaced(names, fast, masks)
    slots = _slots(optimizer, names)
    gathered = {key: _gathered(fast, masks, names, slot) for key, slot in slots.items()}
    after: dict[Tensor, State] = {}
    for name, old in names.items():
        target = replaced[name]
        if target is None or old not in optimizer.state:
            continue
        new = fast.get_parameter(target)
        state = optimizer.state[old]
        after[new] = {key: gathered[key, v.dtype][target] if _by_entry(key, v, old) else v for key, v in state.items()}
    # Nothing can go wrong any more.
    new_of = {id(p): None if (to := replaced[n]) is None else fast.get_parameter(to) for n, p in names.items()}
    for group in optimizer.param_groups:
        group["params"] = [q for p in group["params"] if (q := new_of.get(id(p), p)) is not None]
    for old in names.values():
        optimizer.state.pop(old, None)
    optimizer.state.update(after)


def _replaced(names: Mapping[str, nn.Parameter], fast: nn.Module, masks: Masks) -> dict[str, str | None]:
    """Name the parameter of the sparse model that stands for each of the dense one; None for one pruned whole."""
    own, found = dict(fast.named_parameters(remove_duplicate=False)), dict[str, str | None]()
    for name in names:
        path, _, last = name.rpartition(".")
        values = f"{path}.{last.replace('weight', 'values')}".removeprefix(".")
        found[name] = name if name in own else values if values in own else None
        if found[name] is None and (name not in masks or bool(masks[name].any())):
            raise SecateurError(
                f"`optimizer` cannot go on: the sparsified model has no parameter that stands for {name!r}. Sparsify "
                "without it, and make a new optimizer."
            )
    return found


def _by_entry(key: str, value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"


def _slots(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> dict[tuple[str, torch.dtype], dict[str, Tensor]]:
    """Sort what is remembered by entry: (slot, type) → dense tensor by the parameter's name."""
    found: dict[tuple[str, torch.dtype], dict[str, Tensor]] = {}
    for name, parameter in names.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if _by_entry(key, value, parameter):
                found.setdefault((key, value.dtype), {})[name] = value
    return found


def _gathered(
    fast: nn.Module, masks: Masks, names: Mapping[str, nn.Parameter], slot: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the slot's surviving entries, by the sparse model's names: as its own `load_state_dict` sorts weights."""
    probe = copy.deepcopy(fast).to(next(iter(slot.values())).dtype)
    for each in held(probe):
        each.release()
    wanted = dict(probe.state_dict())
    for name, parameter in names.items():
        if name in wanted:
            value = slot.get(name, torch.zeros_like(parameter, dtype=next(iter(slot.values())).dtype)).detach()
            wanted[name] = value.masked_fill(~masks[name].to(value.device), 0) if name in masks else value
    probe.load_state_dict(wanted)
    return {name: p.detach().clone() for name, p in probe.named_parameters(remove_duplicate=False)}
