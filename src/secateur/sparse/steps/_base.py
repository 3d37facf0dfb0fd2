"""What the compiled steps have in common: weights that live in an engine, kept level with a model and its optimizer."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.errors import MaskError, SecateurError
from secateur.masks import Masks
from secateur.sparse.calls import register
from secateur.sparse.steps._optimizers import options_reader, send_changes, slots_of, steps_of
from secateur.sparse.steps._slices import Slice, carry_slices, read_slices, write_slices
from secateur.sparse.steps._watch import Watch

__all__ = ["CompiledStep", "refuse_inputs", "refuse_targets"]


class CompiledStep(ABC):
    """A training step in one native call. Made by `compile_step`; called with a batch, it returns the mean loss.

    One call runs at a time: a second thread that uses the same step waits for the first.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer) -> None:
        self.model, self.masks, self.optimizer = model, masks, optimizer
        self._lock = threading.RLock()
        self._slots = slots_of(optimizer)
        self._options_of = options_reader(optimizer)
        self._engine: Any = None
        self._sent: list[tuple[Any, ...] | None] = [None] * len(optimizer.param_groups)
        self._state: Any = None  # the optimizer's, as it was looked at last
        self._watch = Watch(model, ())
        register(self)

    @abstractmethod
    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update."""

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch with the weights as they are now, [batch, classes]."""

    @property
    @abstractmethod
    def training_bytes(self) -> int:
        """Bytes of weights, optimizer state and indices."""

    @property
    @abstractmethod
    def _trained(self) -> Collection[Slice]:
        """What the engine trains of each parameter."""

    @abstractmethod
    def _lay_out(self, masks: Masks) -> None:
        """Make room for what survives under these masks, and forget the engine's view of it."""

    @abstractmethod
    def _take_up(self, steps: int) -> None:
        """Tell the engine how many steps were taken, and what else it holds beside the slices."""

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken, those before `compile_step` included (SGD forgets those)."""
        return self._engine.steps

    @property
    def parameter_bytes(self) -> int:
        """Bytes of everything that the engine trains."""
        return sum(4 * len(piece.places) for piece in self._trained)

    @property
    def room_bytes(self) -> int:
        """Bytes kept for the activations of the next step; `secateur.sparse.release_workspaces` gives them back."""
        return 0 if self._engine is None else self._engine.room_bytes

    def release(self) -> None:
        """Give the memory for activations back. The next step takes it anew; weights and state are not touched."""
        with self._lock:
            if self._engine is not None:
                self._engine.release()

    @torch.no_grad()
    def write_back(self) -> None:
        """Bring the model's parameters and the optimizer's state up to date, for an evaluation or a checkpoint.

        Values are rounded where the model was moved to another type (`model.half()`), and go along to another device.

        Raises:
            SecateurError: the model has another parameter now where the step knows one. Nothing is written then.
        """
        with self._lock:
            self._watch.refuse_replaced()
            write_slices(self._trained, self.optimizer, self._slots, self.steps)
            self._note()

    @torch.no_grad()
    def read_back(self) -> None:
        """Take up the model's parameters and the optimizer's state, after something was loaded into them.

        Raises:
            SecateurError: a parameter was replaced, or is not contiguous float32 on the CPU. Nothing is read then.
        """
        with self._lock:
            self._watch.refuse_replaced()
            self._watch.refuse_moved()
            steps = steps_of(self.optimizer, [piece.parameter for piece in self._trained])
            self.masks.apply_(self.model)
            read_slices(self._trained, self.optimizer, self._slots)
            self._take_up(steps)
            self._note()

    @torch.no_grad()
    def replace(self, masks: Masks) -> None:
        """Go on under other masks: survivors keep their weights and optimizer state, what comes back begins at zero.

        The same as `write_back`, zeros over what is pruned now, cleared state where a weight comes back, and a
        freshly compiled step; but fast enough for methods that move their masks every hundred steps. Model and
        optimizer are brought up to date by `write_back`, as after a step.

        Args:
            masks: of the same parameters as before.

        Raises:
            MaskError: masks of other parameters, or that do not fit the model. Nothing is changed then.
        """
        for name in self.masks.keys() ^ masks.keys():
            raise MaskError(
                f"`masks` must be of the parameters that the step was compiled with, but {name!r} is only in one of "
                "the two; compile a new step"
            )
        with self._lock:
            self._refuse_outside_changes()
            old, steps = list(self._trained), self.steps
            self._lay_out(masks)
            self.masks = masks
            carry_slices(old, self._trained)
            self._take_up(steps)

    def _watched(self) -> list[Tensor]:
        """Return the tensors that nobody else may change without `read_back`."""
        return [piece.parameter for piece in self._trained]

    def _note(self) -> None:
        self._watch.note()
        self._state = self.optimizer.state

    def _refuse_outside_changes(self) -> None:
        self._watch.refuse_changes()
        optimizer = self.optimizer
        if optimizer.state is not self._state:
            raise SecateurError(
                "the optimizer's state was replaced outside the fused step (load_state_dict); call read_back() to take "
                "it up"
            )
        if len(optimizer.param_groups) != len(self._sent):
            raise SecateurError(
                f"the optimizer has {len(optimizer.param_groups)} parameter groups, and had {len(self._sent)} when the "
                "step was compiled; compile a new step"
            )

    def _send_options(self) -> None:
        """Tell the engine what a scheduler has changed."""
        send_changes(self._engine, self.optimizer, self._options_of, self._sent, self._slots)

    def _note_step(self) -> None:
        """Schedulers ask whether the optimizer has stepped."""
        self.optimizer._opt_called = True  # type: ignore[attr-defined]

    def _group_of(self) -> dict[int, int]:
        """Return the optimizer's group of each parameter, by the parameter's id."""
        return {id(p): index for index, group in enumerate(self.optimizer.param_groups) for p in group["params"]}


def refuse_inputs(x: Tensor) -> None:
    """Raise unless the kernels can read these inputs."""
    if x.dtype is not torch.float32 or not x.is_cpu or x.layout is not torch.strided:
        kind = str(x.dtype).removeprefix("torch.")
        layout = "" if x.layout is torch.strided else f", {x.layout}".replace("torch.", "")
        raise SecateurError(f"the inputs must be float32 on cpu, got {kind} on {x.device.type}{layout}")


def refuse_targets(targets: Tensor, samples: int) -> None:
    """Raise unless the kernels can read these class numbers, one per sample."""
    if targets.dtype is not torch.int64 or not targets.is_cpu or targets.shape != (samples,):
        raise SecateurError(
            f"`targets` must be {samples} class numbers, int64 on cpu, got {targets.dtype} of shape "
            f"{tuple(targets.shape)} on {targets.device.type}"
        )
    if not targets.is_contiguous():
        raise SecateurError("`targets` must be contiguous; call targets.contiguous()")
