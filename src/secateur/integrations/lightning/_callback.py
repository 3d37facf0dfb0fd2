"""A callback for Lightning's Trainer that prunes while it trains, and goes on where a checkpoint was written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import torch

from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.integrations.trainers import Session
from secateur.masks import Masks, Only
from secateur.measures import Batch, Loss
from secateur.pruning import Pruner

__all__ = ["PrunerCallback"]

# One library under two names, whose classes are not the same.
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class PrunerCallback:
    """Prune a `LightningModule` while its Trainer trains it: give this to `Trainer(callbacks=[...])`.

    When training begins, a `Pruner` with the method is put on the module, or the masks are held; at the end it
    finishes, and `callback.masks` are the result. Density, sparsity, kept weights and emptied layers are logged at the
    Trainer's logging steps. Every checkpoint holds the Pruner's state (tensors and numbers), and a run that is resumed
    from it ends in the same bits as one that was not stopped.

    Args:
        method: a method without gates; `Masks`, say of `prune` before training; or a `Pruner` made before `fit`.
        batches, loss, only, generator, allow_empty: as in `Pruner`. A method that draws needs a generator of yours for
            a run to be resumed bit by bit.

    Raises:
        SecateurError: no Lightning; what acts between backward and the optimizer's step, which Lightning runs at once
            (gates, evidence that adds up over steps); a callback used for a second training; a checkpoint without
            pruning state, or with one that is not of its weights.

    An example is in docs/trainers.md.
    """

    def __new__(cls, *_: Any, **__: Any) -> PrunerCallback:
        """Make it a `Callback` of Lightning too, now that Lightning is needed."""
        return object.__new__(_among_callbacks(cls))

    def __init__(
        self,
        method: Method | Masks | Pruner,
        *,
        batches: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        only: Only = None,
        generator: torch.Generator | None = None,
        allow_empty: bool = True,
    ) -> None:
        _refuse_gates(method)
        self._session = Session(
            method, batches=batches, loss=loss, only=only, generator=generator, allow_empty=allow_empty
        )
        self._stored: dict[str, Any] | None = None

    @property
    def masks(self) -> Masks:
        """The masks as they stand; after training, the result."""
        return self._session.masks

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into its checkpoints."""
        return self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint holds: training that begins next goes on from there."""
        self._stored = state_dict

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the Pruner, or the hold, on the module, whose weights are loaded by now."""
        if trainer.global_step and self._stored is None:
            raise SecateurError(
                f"Training goes on at step {trainer.global_step} from a checkpoint without this callback's state. If "
                "it was trained without the callback, begin a new run from its weights: fit(module) without ckpt_path."
            )
        stored, self._stored = self._stored, None
        self._session.begin(pl_module, stored)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the figures; the Trainer passes them on at its logging steps."""
        pl_module.log_dict(self._session.figures(), batch_size=1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish; `masks` are the result."""
        self._session.finish()


def _refuse_gates(what: Method | Masks | Pruner) -> None:
    method = what.method if isinstance(what, Pruner) else what
    if isinstance(method, Method) and method.relax is not None:
        raise SecateurError(
            f"{method.name} puts gates on the model, which act between backward and the optimizer's step, and "
            "Lightning runs both at once. Train in a loop of your own, with Pruner(model, method), or with "
            "transformers' Trainer."
        )


@cache
def _among_callbacks(cls: type[PrunerCallback]) -> type[PrunerCallback]:
    bases = [module.Callback for name in _PACKAGES if (module := sys.modules.get(name)) is not None]
    for name in _PACKAGES if not bases else ():
        try:
            bases = [import_module(name).Callback]
            break
        except ImportError:
            continue
    if not bases:
        raise SecateurError(
            "PrunerCallback needs Lightning, which is not installed: pip install lightning. In a loop of your own, "
            "Pruner(model, method) needs nothing."
        )
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, *bases), names)
