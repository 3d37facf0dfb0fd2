"""What the compiled steps have in common: weights that live in an engine, kept level with a model and its optimizer."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.behind import stand_by
from secateur._base.errors import MaskError, SecateurError
from secateur.masks import Masks, require_masks
from secateur.sparse.calls import register
from secateur.sparse.steps._batches import mean_loss
from secateur.sparse.steps._held import Holds
from secateur.sparse.steps._optimizers import options_reader, send_changes, slots_of, steps_of
from secateur.sparse.steps._slices import Slice, carry_slices, read_slices, write_slices
from secateur.sparse.steps._watch import Watch

__all__ = ["CompiledStep"]


class CompiledStep(ABC):
    """A training step in one native call. Made by `compile_step`; called with a batch, it returns the mean loss.

    One call runs at a time: a second thread that uses the same step waits for the first.

    While it is ahead of its model, a forward, a `state_dict`, a copy or a pickle of the model (and of the optimizer its
    `state_dict`) writes back first, and so does its end. What reads parameters directly calls `write_back` before.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer) -> None:
        self.model, self.masks, self.optimizer = model, masks, optimizer
        self._lock = threading.RLock()
        self._slots = slots_of(optimizer)
        self._options_of = options_reader(optimizer)
        self._engine: Any = None
        self._sent: list[tuple[Any, ...] | None] = [None] * len(optimizer.param_groups)
        self._state: Any = None  # the optimizer's, and the versions of its tensors, as they were looked at last
        self._state_versions: list[tuple[Tensor, int]] = []
        self._ahead = False
        self._watch = Watch(model, ())
        self._holds = Holds(model)
        self._by_torch = False  # whether torch takes a step at the moment
        register(self)
        owners = [module for module in model.modules() if module._parameters]
        self._leave = stand_by(self, owners, optimizer)

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
            SecateurError: the model has another parameter now where the step knows one, or something was loaded into
                the model or the optimizer meanwhile, which this would overwrite. Nothing is written then.
        """
        with self._lock:
            self._watch.refuse_replaced()
            self._watch.refuse_written()
            self._refuse_changed_state()
            write_slices(self._trained, self.optimizer, self._slots, self.steps)
            self._note()

    @property
    def ahead(self) -> bool:
        """Whether the step has trained weights that the model does not have, and nothing was loaded into it since."""
        if not self._ahead:
            return False
        try:
            self._refuse_outside_changes()
        except SecateurError:
            return False
        return True

    def catch_up(self) -> None:
        """Write back if the step is ahead of the model: what is called before somebody looks at the model."""
        if self.ahead:
            self.write_back()

    def __del__(self, _over: Callable[[], bool] = sys.is_finalizing) -> None:  # at the end modules are gone
        leave = getattr(self, "_leave", None)
        if leave is not None and not _over():  # else `__init__` was not reached, or all is over
            leave()
            self.catch_up()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SecateurError(
            "a compiled step lives in native memory, and is neither copied nor pickled. Save model.state_dict() and "
            "optimizer.state_dict() after write_back(), and call compile_step for the copy"
        )

    @torch.no_grad()
    def read_back(self) -> None:
        """Take up the model's parameters and the optimizer's state, after something was loaded into them.

        The masks of a hold over the model (`Pruner`) are taken up along with them.

        Raises:
            SecateurError: a parameter was replaced, or is not contiguous float32 on the CPU. Nothing is read then.
        """
        with self._lock:
            self._watch.refuse_replaced()
            self._watch.refuse_lost()
            self._watch.refuse_moved()
            self._holds.look(self.masks).apply_(self.model)
            self.follow()

    def follow(self) -> None:
        """Go on under the masks, and from the weights, that a hold has just written: what the hold calls."""
        if self._by_torch:
            return  # all is read when that step is over
        with self._lock, torch.no_grad():
            steps = steps_of(self.optimizer, [piece.parameter for piece in self._trained])
            masks = self._holds.look(self.masks)
            if masks is not self.masks:
                self._lay_out(masks)
                self.masks = masks
            read_slices(self._trained, self.optimizer, self._slots)
            self._take_up(steps)
            self._note()

    def _step_by_torch(self, x: Tensor, targets: Tensor) -> float:
        """Take one step by autograd and the optimizer itself: it leaves the gradients of pruned weights for a hold."""
        self.write_back()
        parameters = list(self.model.parameters())
        gradients = [parameter.grad for parameter in parameters]
        self._by_torch = True
        try:
            for parameter in parameters:
                parameter.grad = None
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
                loss = mean_loss(self.model(x), targets)
                loss.backward()
            self.optimizer.step()
        finally:
            self._by_torch = False
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self.read_back()
        return loss.item()

    @torch.no_grad()
    def replace(self, masks: Masks) -> None:
        """Go on under other masks: survivors keep their weights and optimizer state, what comes back begins at zero.

        The same as `write_back`, zeros over what is pruned now, cleared state where a weight comes back, and a
        freshly compiled step; but fast enough for methods that move their masks every hundred steps. Model and
        optimizer are brought up to date by `write_back`, as after a step.

        Args:
            masks: of the same parameters as before.

        Raises:
            MaskError: masks of other parameters, that do not fit the model, or that are not those of a hold over it.
                Nothing is changed then.
        """
        require_masks(masks, "step.replace(masks)")
        for name in self.masks.keys() ^ masks.keys():
            raise MaskError(
                f"`masks` must be of the parameters that the step was compiled with, but {name!r} is only in one of "
                "the two; compile a new step"
            )
        self._holds.refuse_others(masks)
        with self._lock:
            self._refuse_outside_changes()
            old, steps = list(self._trained), self.steps
            self._lay_out(masks)
            self.masks = masks
            carry_slices(old, self._trained)
            self._take_up(steps)
            self._ahead = True

    def _watched(self) -> list[Tensor]:
        """Return the tensors that nobody else may change without `read_back`."""
        return [piece.parameter for piece in self._trained]

    def _note(self) -> None:
        self._watch.note()
        self._state = self.optimizer.state
        states = [self._state.get(piece.parameter, {}) for piece in self._trained]
        found = [state.get(slot) for state in states for slot in self._slots]
        self._state_versions = [(tensor, tensor._version) for tensor in found if tensor is not None]
        self._ahead = False

    def _refuse_outside_changes(self) -> None:
        """Raise if the model or the optimizer was changed since the last look; this runs at every step."""
        self._holds.refuse()
        self._watch.refuse_changes()
        self._refuse_changed_state()
        groups = len(self.optimizer.param_groups)
        if groups != len(self._sent):
            raise SecateurError(
                f"the optimizer has {groups} parameter groups, and had {len(self._sent)} when the step was compiled; "
                "compile a new step"
            )

    def _refuse_changed_state(self) -> None:
        optimizer = self.optimizer
        # Its `load_state_dict` puts another dictionary there; `state.clear()` leaves an empty one.
        replaced = optimizer.state is not self._state or (self._state_versions and not self._state)
        if replaced or any([tensor._version != version for tensor, version in self._state_versions]):
            raise SecateurError(
                "the optimizer's state was changed outside the fused step (load_state_dict, say); call read_back() to "
                "take it up"
            )

    def _send_options(self) -> None:
        """Tell the engine what a scheduler has changed."""
        send_changes(self._engine, self.optimizer, self._options_of, self._sent, self._slots)

    def _note_step(self, gradients: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        """The model is behind from now on; schedulers ask whether the optimizer has stepped, holds count it."""
        self._ahead = True
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._holds.stepped(self.optimizer, gradients)

    def _group_of(self) -> dict[int, int]:
        """Return the optimizer's group of each parameter, by the parameter's id."""
        return {id(p): index for index, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
