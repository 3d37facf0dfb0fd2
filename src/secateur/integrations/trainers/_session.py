"""A Pruner, or masks that are held, from the first step of somebody else's training loop to its last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from secateur._base import shards
from secateur._base.arguments import named
from secateur._base.errors import CheckpointWarning, SecateurError
from secateur._base.warn import warn
from secateur.axes import Method
from secateur.holding import Hold, held, hold
from secateur.masks import Masks, Only, unwrap
from secateur.measures import Batch, Loss
from secateur.pruning import Pruner, emptied_layers

__all__ = ["Session"]


class Session:
    """Prune, or hold, through one training that somebody else's loop runs: begin, figures, state, finish.

    The callbacks for transformers and Lightning are made of it; so can one for another trainer be. The model has its
    weights, and the optimizer its state, when `begin` is called.

    Args:
        what: a method, with which a `Pruner` is made when training begins; masks, to hold; or a `Pruner` that is on
            the model already (methods with gates need that: optimizer and checkpoint have to meet the gates).
        batches, loss, only, generator, allow_empty: as in `Pruner`, for a method.

    Raises:
        SecateurError: anything else, options beside masks or a Pruner, a method with gates.

    >>> from secateur import prune, methods
    >>> model = nn.Linear(8, 2)
    >>> session = Session(prune(model, methods.magnitude(density=0.25)))
    >>> session.begin(model)
    >>> session.figures()
    {'density': 0.25, 'sparsity': 0.75, 'kept': 4.0, 'emptied': 0.0}
    >>> session.finish().kept
    4
    """

    def __init__(
        self,
        what: Method | Masks | Pruner,
        *,
        batches: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        only: Only = None,
        generator: torch.Generator | None = None,
        allow_empty: bool = True,
    ) -> None:
        given = {"batches": batches, "loss": loss, "only": only, "generator": generator}
        _refuse_other(what, [name for name, value in given.items() if value is not None])
        self._what = what
        self._batches = list(batches) if batches is not None else None
        self._loss, self._only, self._generator, self._allow_empty = loss, only, generator, allow_empty
        self._acting: Pruner | Hold | None = None
        self._ended: tuple[Masks, dict[str, Any]] | None = None
        self._counted: tuple[Masks, dict[str, float]] | None = None

    @property
    def begun(self) -> bool:
        """Whether a training has begun, and not ended yet."""
        return self._acting is not None

    @property
    def masks(self) -> Masks:
        """The masks as they stand, and after training those that `finish` returned."""
        if self._ended is not None:
            return self._ended[0]
        return self._running().masks

    @property
    def step(self) -> int | None:
        """How many optimizer steps the Pruner has seen; None where masks are held."""
        return self._acting.step if isinstance(self._acting, Pruner) else None

    def begin(self, model: nn.Module, state: Mapping[str, Any] | None = None) -> None:
        """Put the Pruner, or the hold, on the model; `state`, of `state_dict`, is that of a run that goes on.

        Raises:
            SecateurError: a training before this one, a state of another model, a Pruner of another model.
        """
        self._refuse_twice(resumed=state is not None)
        model = unwrap(model)
        if state is not None:
            _refuse_other_model(model, state)
        if self._acting is not self._what:  # of a training that broke off
            self.release()
        if isinstance(self._what, Pruner):
            _refuse_unheld(model, self._what)
            self._acting = self._what
        elif isinstance(self._what, Masks):
            self._acting = hold(model, self._what if state is None else self._of_checkpoint(self._what, state))
        else:
            self._acting = Pruner(
                model,
                self._what,
                self._batches,
                loss=self._loss,
                only=self._only,
                generator=self._generator,
                allow_empty=self._allow_empty,
            )
        if state is not None and isinstance(self._acting, Pruner):
            self._acting.load_state_dict(state)

    def figures(self) -> dict[str, float]:
        """What to log: density, sparsity, kept weights, and emptied: layers that have none left.

        Counted anew only where the masks have changed.
        """
        masks = self.masks
        if self._counted is None or self._counted[0] is not masks:
            kept, density = masks.kept, masks.density
            numbers = {"density": density, "sparsity": 1 - density, "kept": float(kept)}
            self._counted = masks, numbers | {"emptied": float(len(emptied_layers(masks)))}
        return dict(self._counted[1])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, tensors and numbers only; {} before training has begun."""
        if self._ended is not None:
            return self._ended[1]
        if isinstance(self._acting, Pruner):
            return self._acting.state_dict()
        return {} if self._acting is None else {"masks": dict(self._acting.masks)}

    def finish(self) -> Masks:
        """End the training: the Pruner finishes, a hold lets go, the weights obey the masks that are returned."""
        acting, state = self._running(), self.state_dict()
        if isinstance(acting, Pruner):
            masks = acting.finish()
        else:
            masks = acting.masks
            acting.project()
            acting.release()
        self._acting, self._ended = None, (masks, state)
        return masks

    def release(self) -> None:
        """Stop without a result. Twice is fine."""
        if self._acting is not None:
            self._acting.release()
        self._acting = None

    def _running(self) -> Pruner | Hold:
        if self._acting is None:
            raise SecateurError("There are no masks yet: training has not begun. They are here from its first step on.")
        return self._acting

    def _refuse_twice(self, *, resumed: bool) -> None:
        if self._ended is None and (self._acting is None or resumed):
            return
        raise SecateurError(
            "This callback has been through a training already: one callback prunes one training. Make a new one; "
            "PrunerCallback(callback.masks) holds what this one found."
        )

    def _of_checkpoint(self, masks: Masks, state: Mapping[str, Any]) -> Masks:
        stored = Masks(state["masks"])
        if stored != masks:
            warn(
                "The masks in the checkpoint are not those that were given; training goes on with the checkpoint's. "
                "To hold others, begin a new run from the weights.",
                CheckpointWarning,
            )
        return stored


def _refuse_other(what: object, options: list[str]) -> None:
    if not isinstance(what, Method | Masks | Pruner):
        raise SecateurError(
            f"`method` must be a Method, Masks or a Pruner, got {named(what)}. Write, for example, "
            "methods.magnitude(density=0.1, schedule=schedule.cubic(0.1, begin=0, end=900, every=100))."
        )
    if isinstance(what, Masks | Pruner) and options:
        raise SecateurError(
            f"`{options[0]}` is for a method, and {named(what)} was given. Leave it out, or give it to the Pruner."
        )
    if isinstance(what, Method) and what.relax is not None:
        raise SecateurError(
            f"{what.name} puts gates on the model, and the optimizer and the checkpoint have to meet them. Write "
            "pruner = Pruner(model, method) before the trainer is made, and PrunerCallback(pruner)."
        )


def _refuse_unheld(model: nn.Module, pruner: Pruner) -> None:
    if not held(model):
        raise SecateurError(
            f"The model that is trained is not the one that this Pruner ({pruner.method.name}) is on, or the Pruner "
            "has finished. Give the trainer the model that the Pruner was made with."
        )


def _refuse_other_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse a state by whose masks the weights are not pruned: it is of another checkpoint, or of another model."""
    if "masks" not in state:
        raise SecateurError(f"A callback's state has the key 'masks', got {sorted(state)}.")
    masks = Masks(state["masks"])
    for name, parameter in masks.parameters(model).items():
        pruned = ~shards.local_mask(masks[name], parameter)
        wrong = int((shards.local(parameter).detach().ne(0) & pruned).sum())
        if wrong:
            raise SecateurError(
                f"The pruning state in the checkpoint is not of these weights: {wrong} of {name!r} are pruned in it "
                "and not zero in the model. Resume from the folder in which both were written."
            )
