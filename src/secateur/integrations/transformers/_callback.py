"""A callback for transformers' Trainer that prunes while it trains, and goes on where a checkpoint was written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from secateur._base.errors import CheckpointWarning, SecateurError
from secateur._base.files import write_whole
from secateur._base.warn import warn
from secateur.axes import Method
from secateur.integrations.trainers import Session
from secateur.masks import Masks, Only
from secateur.measures import Batch, Loss
from secateur.pruning import Pruner

__all__ = ["PrunerCallback"]

_FILE = "secateur_pruner.pt"


class PrunerCallback:
    """Prune a model of transformers while its Trainer trains it: give this to `Trainer(callbacks=[...])`.

    When training begins, a `Pruner` with the method is put on the model, or the masks are held; at the end it finishes,
    and `callback.masks` are the result. Density, sparsity, kept weights and emptied layers join the training's logs.
    Every checkpoint folder gets a file with the Pruner's state (tensors and numbers, opened with `weights_only=True`),
    and a run that is resumed from it ends in the same bits as one that was not stopped.

    Args:
        method: any method; `Masks`, say of `prune` before training; or a `Pruner` made before the Trainer, which
            methods with gates need.
        batches, loss, only, generator, allow_empty: as in `Pruner`. A method that draws needs a generator of yours for
            a run to be resumed bit by bit.
        checkpoint: the folder from which the Trainer resumes, where that is neither in its `output_dir` nor
            `args.resume_from_checkpoint`: the Trainer does not tell callbacks.

    Raises:
        SecateurError: no transformers; a callback used for a second training; a checkpoint without pruning state, or
            with one that is not of its weights.

    An example is in docs/trainers.md.
    """

    def __new__(cls, *_: Any, **__: Any) -> PrunerCallback:
        """Make it a `transformers.TrainerCallback` too, now that transformers is needed."""
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
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self._session = Session(
            method, batches=batches, loss=loss, only=only, generator=generator, allow_empty=allow_empty
        )
        self._checkpoint = checkpoint

    @property
    def masks(self) -> Masks:
        """The masks as they stand; after training, the result."""
        return self._session.masks

    def log_first(self, trainer: Any) -> None:
        """Move this callback to the front of a Trainer's, before those that write to TensorBoard and others.

        The Trainer calls its loggers before the callbacks that it was given; without this the figures reach
        `trainer.state.log_history`, what is printed, and callbacks that follow.
        """
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    def _begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Put the Pruner, or the hold, on the model, whose weights are loaded by now."""
        self._session.begin(model, self._stored(args, state) if state.global_step else None)

    def _log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the figures to the logs of a training step."""
        if logs is None or "loss" not in logs or not self._session.begun:
            return
        figures = self._session.figures()
        logs.update(figures)
        if state.log_history:  # which has a copy of the logs already
            state.log_history[-1].update(figures)

    def _save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the Pruner's state into the checkpoint's folder."""
        if not (self._session.begun and state.is_world_process_zero):
            return
        folder = _folder(args, state)
        if not folder.is_dir():
            warn(
                f"There is no folder {folder} to write the pruning state to: this run cannot be resumed.",
                CheckpointWarning,
            )
            return
        content = io.BytesIO()
        torch.save(self._session.state_dict(), content)
        write_whole(folder / _FILE, content.getvalue())

    def _end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Finish; `masks` are the result."""
        self._session.finish()

    # The Trainer passes more with each event than a callback looks at, and more with each of its versions.
    on_train_begin, on_log, on_save, on_train_end = _begin, _log, _save, _end

    def _stored(self, args: Any, state: Any) -> Mapping[str, Any]:
        """The state in the checkpoint from which training goes on."""
        if self._checkpoint is not None:
            tried = [Path(self._checkpoint)]
        else:
            named = getattr(args, "resume_from_checkpoint", None)
            tried = [Path(named)] if isinstance(named, str) and Path(named).is_dir() else []
            tried.append(_folder(args, state))
        found = next((folder / _FILE for folder in tried if (folder / _FILE).is_file()), None)
        if found is None:
            raise SecateurError(
                f"Training goes on at step {state.global_step}, and there is no {_FILE} in {tried[-1]}. Name the "
                "folder of the checkpoint, PrunerCallback(..., checkpoint=folder); or, if it was trained without this "
                "callback, begin a new run from its weights (from_pretrained)."
            )
        try:
            stored = torch.load(found, map_location="cpu", weights_only=True)
        except Exception as problem:  # whatever a damaged file makes of it
            raise SecateurError(f"{found} cannot be read: {problem}. Resume from the checkpoint before.") from None
        if "step" in stored and stored["step"] != state.global_step:
            raise SecateurError(
                f"{found} is of optimizer step {stored['step']}, and training goes on at {state.global_step}. Name the "
                "folder of the checkpoint: PrunerCallback(..., checkpoint=folder)."
            )
        return stored


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


@cache
def _among_callbacks(cls: type[PrunerCallback]) -> type[PrunerCallback]:
    try:
        base = import_module("transformers").TrainerCallback
    except ImportError:
        raise SecateurError(
            "PrunerCallback needs transformers and accelerate, which are not installed: pip install transformers "
            "accelerate. In a loop of your own, Pruner(model, method) needs neither."
        ) from None
    return type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__})
