"""What goes on with a smaller model: optimizers, whose state is cut as parameters are, and masks that are held."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from secateur._base.errors import SecateurError
from secateur.coupling import lies_in
from secateur.holding import BY_ENTRY, held
from secateur.masks import Masks
from secateur.shrinking.cuts import Plan, kept_indices, sliced

__all__ = ["check_optimizer", "continue_", "drifts", "left_of", "released"]

# Those that do not remember each entry by itself, and why their next step is not that of the full model whose removed
# entries were held at zero.
_MIXES = {
    getattr(optim, name): why
    for name, why in (
        ("Muon", "mixes the entries of a matrix: its next step is that of the smaller matrix"),
        (
            "Adafactor",
            "remembers averages over rows and columns, and over those that went, too, until they are forgotten",
        ),
    )
    if hasattr(optim, name)
}


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer whose state cannot be cut, or that is not of this model."""
    if not isinstance(optimizer, (*BY_ENTRY, *_MIXES)):
        known = ", ".join(kind.__name__ for kind in (*BY_ENTRY, *_MIXES))
        raise SecateurError(
            f"`optimizer` must remember each entry by itself, as {known} do, got {type(optimizer).__name__}. Shrink "
            "without it (a new model comes back), and make a new optimizer for that."
        )
    own = {id(parameter) for parameter in model.parameters()}
    steps = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(parameter) in own for parameter in steps):
        raise SecateurError("`optimizer` must be the one that trains this model, got one with none of its parameters.")


def drifts(optimizer: Optimizer) -> str | None:
    """Say why the next step is not that of the full model, if it is not."""
    found = next((why for kind, why in _MIXES.items() if isinstance(optimizer, kind)), None)
    return None if found is None else f"{type(optimizer).__name__} {found}"


def continue_(
    optimizer: Optimizer, plan: Plan, replaced: Mapping[nn.Parameter, nn.Parameter], names: Mapping[nn.Parameter, str]
) -> None:
    """Let an optimizer go on with the new parameters, in place.

    Args:
        optimizer: of the model before the cut.
        plan: the cut.
        replaced: old parameter → new one.
        names: old parameter → its name.
    """
    kept = {name: dims for each, dims in kept_indices(plan).items() for name in each}
    lost = {parameter for parameter, name in names.items() if lies_in(name, plan.removed) is not None}
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(parameter, parameter) for parameter in group["params"] if parameter not in lost]
    for parameter in lost:
        optimizer.state.pop(parameter, None)
    for old, new in replaced.items():
        if old not in optimizer.state:
            continue
        state = optimizer.state.pop(old)
        dims = kept[names[old]]
        optimizer.state[new] = {key: _cut(value, old, dims) for key, value in state.items()}


def _cut(value: object, parameter: Tensor, dims: list[tuple[int, Tensor]]) -> object:
    """Cut what is shaped like the parameter, or like it but for averages along some dimensions; counts stay."""
    if not isinstance(value, Tensor) or value.ndim != parameter.ndim or not value.ndim:
        return value
    if any(own not in (1, whole) for own, whole in zip(value.shape, parameter.shape, strict=True)):
        return value
    with torch.no_grad():
        return sliced(value, [(dim, index) for dim, index in dims if value.shape[dim] == parameter.shape[dim]])


def released(model: nn.Module) -> nn.Module:
    """Return the model, or where masks are held on it a copy without: a hold would not know what is cut."""
    if not held(model):
        return model
    twin = copy.deepcopy(model)
    for each in held(twin):
        each.release()
    return twin


def left_of(masks: Masks, made: Plan) -> Masks | None:
    """Return the masks among what stays, scattered zeros; None where there are none."""
    kept = {name: dims for names, dims in kept_indices(made).items() for name in names}
    stays = {name: mask for name, mask in masks.items() if lies_in(name, made.removed) is None}
    found = {name: sliced(mask, kept[name]) if name in kept else mask for name, mask in stays.items()}
    found = {name: mask for name, mask in found.items() if not bool(mask.all())}
    return Masks(found) if found else None
