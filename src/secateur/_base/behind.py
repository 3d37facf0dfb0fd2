"""Weights that are trained elsewhere, in a compiled step: whoever looks at the model gets them brought up to date.

A look is a forward, a `state_dict`, a copy or a pickle of a module that owns such weights, or a call of this package
that reads them. Parameters read directly (`model.parameters()`) cannot be seen: `write_back()` is for those.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

__all__ = ["CatchUp", "Trainer", "catch_up", "follow", "stand_by", "trainers"]

_REDUCE = "__reduce_ex__"
_HOOKS = ("_forward_pre_hooks", "_state_dict_pre_hooks")


@runtime_checkable
class Trainer(Protocol):
    """What trains a model's weights elsewhere."""

    def catch_up(self) -> None:
        """Write the weights into the model, if it is behind."""
        ...

    def follow(self) -> None:
        """Take up what was written into the model on purpose: masks, and the weights under them."""
        ...


class CatchUp:
    """A hook that changes nothing about a call, and has the weights brought up to date before it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = weakref.ref(trainer)

    @property
    def trainer(self) -> Trainer | None:
        """What trains the weights, or None once it is gone."""
        return self._trainer()

    def __call__(self, *_: object) -> None:
        (_bring_uncompiled if torch.compiler.is_compiling() else _bring)(self)


def _bring(notice: CatchUp) -> None:
    trainer = notice.trainer
    if trainer is not None:
        trainer.catch_up()


# A compiled model breaks its graph here: what it computes with must be up to date as well. (The decorator would import
# the compiler at the first call.)
_bring_uncompiled = _disable_dynamo(_bring)


def stand_by(trainer: Trainer, modules: Iterable[nn.Module], optimizer: Optimizer | None) -> Callable[[], None]:
    """Let `trainer` catch up before anybody looks at these modules or the state of the optimizer, if there is one.

    Returns:
        What takes the hooks off again. Copies of the modules have none.
    """
    notice, own = CatchUp(trainer), list(modules)
    handles: list[Any] = [] if optimizer is None else [optimizer.register_state_dict_pre_hook(notice)]
    for module in own:
        handles.append(module.register_forward_pre_hook(notice))
        handles.append(module.register_state_dict_pre_hook(notice))
        # copy.deepcopy and pickle ask the object itself; nn.Module has no hook for them.
        module.__dict__[_REDUCE] = partial(_reduced, weakref.ref(module), notice)
    return partial(_take_off, handles, own, notice)


def trainers(model: nn.Module) -> list[Trainer]:
    """Return what trains weights of `model` elsewhere."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    found = [hook.trainer for hook in hooks if isinstance(hook, CatchUp)]
    return list({id(trainer): trainer for trainer in found if trainer is not None}.values())


def catch_up(model: nn.Module) -> None:
    """Bring the weights of `model` up to date: what reads them without a forward calls this first."""
    for trainer in trainers(model):
        trainer.catch_up()


def follow(model: nn.Module) -> None:
    """Have what trains the weights of `model` elsewhere take up what was written into it, after `catch_up`."""
    for trainer in trainers(model):
        trainer.follow()


def _reduced(module_ref: weakref.ref[nn.Module], notice: CatchUp, protocol: int) -> Any:
    """Take a module apart for a copy or a pickle as its class does, without what stands on it here."""
    module = module_ref()
    assert module is not None, "it is the module itself that asks"
    notice()
    made = type(module).__reduce_ex__(module, protocol)
    if not isinstance(made, tuple) or len(made) < 3 or not isinstance(made[2], dict):
        return made
    state = {key: value for key, value in made[2].items() if key != _REDUCE}
    for place in _HOOKS:
        state[place] = OrderedDict((k, h) for k, h in state[place].items() if not isinstance(h, CatchUp))
    return (*made[:2], state, *made[3:])


def _take_off(handles: list[Any], modules: list[nn.Module], notice: CatchUp) -> None:
    for handle in handles:
        handle.remove()
    for module in modules:
        reduce = module.__dict__.get(_REDUCE)
        if isinstance(reduce, partial) and reduce.args[1] is notice:  # not that of a later trainer
            del module.__dict__[_REDUCE]
