"""A part of a training, and the one way in which programs ask for it: checked, and undone where it goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

__all__ = ["Stage", "Staged", "State", "Train", "own_parameters", "restore", "run_stage", "shorter", "snapshot"]

#: What an optimizer remembers, by names that are the training's own.
State = Mapping[str, Tensor]
#: Trains a model in place from the weights that it has, to the end.
Train = Callable[[nn.Module], Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a training: the steps from `start` up to `stop` of a schedule of `of` steps.

    Attributes:
        start: the first step.
        stop: the step before which it ends.
        of: the length that the learning rate's schedule is stretched to.
        state: what the optimizer remembers at `start`, as an earlier stage returned it; None: nothing yet.
        rate: the step whose learning rate all steps have; None: each its own.
        among: numbers of the training examples to train on; None: all.
    """

    start: int
    stop: int
    of: int
    state: State | None = None
    rate: int | None = None
    among: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= self.of:
            raise SecateurError(
                f"A stage goes from `start` to `stop` within `of` steps, got start={self.start}, stop={self.stop}, "
                f"of={self.of}. The step to go back to must not lie behind the end of training."
            )


#: Trains a model in place for one stage, and returns what its optimizer remembers then.
Staged = Callable[[nn.Module, Stage], State]


def run_stage(train: Staged, model: nn.Module, stage: Stage) -> State:
    """Train for one stage; what the optimizer remembers afterwards.

    A stage without steps is not run, and remembers what it was given.

    Raises:
        SecateurError: `train` returned nothing, or put other parameters in the model. The model has the parameters and
            the values from before the stage then.
    """
    if stage.start == stage.stop:
        return stage.state or {}
    with own_parameters(model):
        found = train(model, stage)
        if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
            raise SecateurError(
                f"`train` must return what its optimizer remembers, a mapping of tensors that it is given again as "
                f"`stage.state`, got {type(found).__name__}. Return {{}} if there is nothing to remember (plain SGD)."
            )
    return {name: value.detach().clone() for name, value in found.items()}


@contextmanager
def own_parameters(model: nn.Module) -> Iterator[None]:
    """Refuse a training that replaces parameters, and put everything back where it goes wrong in such a way.

    Masks, rewinding and whoever holds the model know its parameters as they are.
    """
    homes = [(module, dict(module._parameters)) for module in model.modules()]
    values = snapshot(model)
    try:
        yield
        changed = [name for module, own in homes for name, p in own.items() if module._parameters.get(name) is not p]
        if changed:
            raise SecateurError(
                f"`train` put another parameter in the place of {changed[0]!r} ({len(changed)} in all): masks and "
                "rewinding know the model's own. Write into them (`parameter.data.copy_`, `load_state_dict`), and make "
                "copies of the model, not in it."
            )
    except SecateurError:
        for module, own in homes:
            module._parameters.update(own)
        restore(model, values)
        raise


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything in a model's `state_dict`."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def restore(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write a `snapshot` back."""
    with torch.no_grad():
        model.load_state_dict(dict(values))


def shorter(stage: Stage, *, some: int, whole: int, among: Tensor) -> Stage:
    """A stage on `some` of the `whole` examples: every milestone comes earlier by that share, ⌈t · some / whole⌉.

    >>> (found := shorter(Stage(10, 100, 100), some=1, whole=3, among=torch.arange(1))).start, found.stop, found.of
    (4, 34, 34)
    """
    start, stop, of = (-(-step * some // whole) for step in (stage.start, stage.stop, stage.of))
    return replace(stage, start=start, stop=stop, of=of, among=among)
