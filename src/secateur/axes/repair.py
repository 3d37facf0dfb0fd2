"""What survivors do after the cut. A repair changes the surviving weights, never the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes._moment import Moment
from secateur.masks import Masks
from secateur.measures import Measure

Initialise = Callable[[nn.Module, torch.Generator], None]


@runtime_checkable
class Repair(Protocol):
    """What corrects the survivors.

    Called with the model as it is before the zeros are written, so that the dense weights are there to see, the masks
    that will be written, and the moment, whose evidence includes the `measures` named here. It writes survivors; what
    it writes where the masks say zero is overwritten.

    Attributes:
        measures: evidence that it asks for.
        always: whether it runs at every milestone, or only after the last.
    """

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Evidence to gather for it."""
        ...

    @property
    def always(self) -> bool:
        """Whether it runs at every milestone, not only after the last."""
        ...

    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        ...


@dataclass(frozen=True)
class Redraw:
    """Give the survivors fresh initial weights (see `redraw`)."""

    initialise: Initialise | None = None
    measures: tuple[Measure, ...] = ()
    always: bool = False

    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        draw(model, masks, moment.generator, self.initialise)


def draw(
    model: nn.Module, masks: Masks, generator: torch.Generator | None, initialise: Initialise | None = None
) -> None:
    """Write initial weights into the layers of `masks`, and zeros where the masks say.

    They are drawn from `generator`, by default from a fresh one seeded with the global seed.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed())
    if initialise is not None:
        initialise(model, generator)
    else:
        _reset_owners(model, masks, generator)
    masks.apply_(model)


def redraw(initialise: Initialise | None = None) -> Redraw:
    """Draw new weights after pruning and keep the mask: the second draw of SNIP's authors, and the *reinit* check.

    Args:
        initialise: (model, generator) → None, writes initial weights; by default the `reset_parameters` of every
            module that owns a masked tensor, which also redraws that module's biases.

    Source: the code of the SNIP paper (two variable sets); "Missing the mark", arXiv 2009.08576, §4.
    """
    return Redraw(initialise)


def _reset_owners(model: nn.Module, masks: Masks, generator: torch.Generator) -> None:
    owners = [
        module
        for prefix, module in model.named_modules()
        if any(f"{prefix}.{name}".lstrip(".") in masks for name, _ in module.named_parameters(recurse=False))
    ]
    resets = []
    for module in owners:
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is None:
            raise SecateurError(
                f"{type(module).__name__} has no reset_parameters(): pass `initialise`, a function "
                "(model, generator) → None that writes initial weights."
            )
        resets.append(reset)
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng():  # reset_parameters draws from the global generator, which is left as found
        torch.manual_seed(seed)
        for reset in resets:
            reset()
