"""Networks of one's own among those of the lab: made by a function that a command line names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.lab.own import imported

_ADMITTED: dict[str, Any] = {}


def admit(name: str) -> None:
    """Let `build` know a network of one's own, `package.module:factory`. Importing it runs its code.

    The factory takes no arguments and returns an `nn.Module`; its weights are drawn by its own rules, from a seed.

    Args:
        name: what it is called from here on. What stands in a run's files is never imported: only what is admitted.

    Raises:
        SecateurError: it cannot be imported.
    """
    _ADMITTED[name] = imported(name)


def admitted() -> tuple[str, ...]:
    """Return the names that were admitted, for processes that have to admit them as well."""
    return tuple(_ADMITTED)


def refuse_stranger(name: str) -> None:
    """Refuse a network of somebody's own that no command line has named."""
    if name not in _ADMITTED:
        raise SecateurError(
            f"{name!r} is a network of one's own, and nobody but a command line that names it (--model {name}) has it "
            "imported: that runs its code."
        )


def make_own(name: str, seed: int, in_shape: tuple[int, ...] | None, num_classes: int) -> nn.Module:
    """Call the factory with torch's random state at `seed`, which is as before afterwards."""
    refuse_stranger(name)
    made = _ADMITTED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = made() if callable(made) and not isinstance(made, nn.Module) else made
        except Exception as problem:
            raise SecateurError(f"{name} raised {type(problem).__name__}: {problem}") from problem
        if not isinstance(model, nn.Module) or model is made:
            raise SecateurError(f"{name} must be a function that makes an nn.Module, got a {type(model).__name__}.")
        if in_shape is not None:
            _require_fit(name, model, in_shape, num_classes)
    return model


def _require_fit(name: str, model: nn.Module, in_shape: tuple[int, ...], num_classes: int) -> None:
    mode = model.training
    try:
        with torch.no_grad():
            found = tuple(model.eval()(torch.zeros(2, *in_shape)).shape)
    except Exception as problem:
        raise SecateurError(
            f"{name} does not take inputs of the shape {in_shape}: {type(problem).__name__}: {problem}"
        ) from problem
    finally:
        model.train(mode)
    if found != (2, num_classes):
        raise SecateurError(
            f"{name} must answer with one number per class, (2, {num_classes}) for two inputs, got {found}."
        )
