"""What the compiled steps have in common: weights that live in an engine, kept level with a model and its optimizer."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.arguments import named
from secateur._base.behind import stand_by
from secateur._base.errors import MaskError, SecateurError
from secateur.masks import Masks, require_masks
from secateur.sparse.steps._optimizers import options_reader, send_changes, slots_of, steps_of
from secateur.sparse.steps._slices import Slice, carry_slices, read_slices, write_slices

__all__ = ["CompiledStep", "refuse_inputs", "refuse_targets"]

_WEIGHTS = "the model's weights were changed outside the fused step; call read_back() to take them up"
_STATE = "the optimizer's state was changed outside the fused step; call read_back() to take it up"
_REPLACED = (
    "{name!r} of a layer of the model is another tensor than the step was compiled with (after "
    "load_state_dict(assign=True), say); make the optimizer of the parameters as they are now, and compile_step anew"
)


class CompiledStep(ABC):
    """A training step in one native call. Made by `compile_step`; called with a batch, it returns the mean loss.

    While it is ahead of its model, a forward, a `state_dict`, a copy or a pickle of the model (and of the optimizer its
    `state_dict`) writes back first, and so does its end. What reads parameters directly calls `write_back` before.
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer) -> None:
        self.model, self.masks, self.optimizer = model, masks, optimizer
        self._slots = slots_of(optimizer)
        self._options_of = options_reader(optimizer)
        self._engine: Any = None
        self._sent: list[tuple[Any, ...] | None] = [None] * len(optimizer.param_groups)
        # What stands where in the model, its version, and the same of the optimizer's state, as last seen.
        self._versions: list[tuple[Mapping[str, Tensor | None], str, Tensor, int]] = []
        self._state: Any = None
        self._state_versions: list[tuple[Tensor, int]] = []
        self._ahead = False
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

    @torch.no_grad()
    def write_back(self) -> None:
        """Bring the model's parameters and the optimizer's state up to date, for an evaluation or a checkpoint.

        Raises:
            SecateurError: something else has been loaded into them meanwhile, which this would overwrite.
        """
        self._refuse_outside_changes()
        write_slices(self._trained, self.optimizer, self._slots, self.steps)
        self._note_versions()

    @property
    def ahead(self) -> bool:
        """Whether the step has trained weights that the model does not have, and nothing was loaded into it since."""
        return self._ahead and self._changed() is None

    def catch_up(self) -> None:
        """Write back if the step is ahead of the model: what is called before somebody looks at the model."""
        if self.ahead:
            self.write_back()

    def __del__(self) -> None:
        leave = getattr(self, "_leave", None)
        if leave is not None and not sys.is_finalizing():  # else `__init__` was not reached, or all is over
            leave()
            self.catch_up()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SecateurError(
            "a compiled step lives in native memory, and is neither copied nor pickled. Save model.state_dict() and "
            "optimizer.state_dict() after write_back(), and call compile_step for the copy"
        )

    @torch.no_grad()
    def read_back(self) -> None:
        """Take up the model's parameters and the optimizer's state, after something was loaded into them."""
        self._refuse_replaced()
        steps = steps_of(self.optimizer, [piece.parameter for piece in self._trained])
        self.masks.apply_(self.model)
        read_slices(self._trained, self.optimizer, self._slots)
        self._take_up(steps)
        self._note_versions()

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
        require_masks(masks, "step.replace(masks)")
        for name in self.masks.keys() ^ masks.keys():
            raise MaskError(
                f"`masks` must be of the parameters that the step was compiled with, but {name!r} is only in one of "
                "the two; compile a new step"
            )
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

    def _note_versions(self) -> None:
        homes = self._homes()
        lost: tuple[Mapping[str, Tensor | None], str] = ({}, "weight")
        self._versions = [(*homes.get(id(tensor), lost), tensor, tensor._version) for tensor in self._watched()]
        self._state = self.optimizer.state
        states = [self._state.get(piece.parameter, {}) for piece in self._trained]
        found = [state.get(slot) for state in states for slot in self._slots]
        self._state_versions = [(tensor, tensor._version) for tensor in found if tensor is not None]
        self._ahead = False

    def _homes(self) -> dict[int, tuple[Mapping[str, Tensor | None], str]]:
        """Return where in the model each tensor stands, by its id."""
        places = [own for module in self.model.modules() for own in (module._parameters, module._buffers)]
        return {id(tensor): (own, name) for own in places for name, tensor in own.items()}

    def _changed(self) -> str | None:
        """Say what was changed since the last look; this runs at every step."""
        for own, name, tensor, version in self._versions:
            if own.get(name) is not tensor:
                return _REPLACED.format(name=name)
            if tensor._version != version:
                return _WEIGHTS
        if self.optimizer.state is not self._state or (self._state_versions and not self._state):
            return _STATE  # its `load_state_dict` puts another dictionary there
        for tensor, version in self._state_versions:
            if tensor._version != version:
                return _STATE
        return None

    def _refuse_outside_changes(self) -> None:
        changed = self._changed()
        if changed is not None:
            raise SecateurError(changed)

    def _refuse_replaced(self) -> None:
        homes = self._homes()
        for _, name, tensor, _ in self._versions:
            if id(tensor) not in homes:
                raise SecateurError(_REPLACED.format(name=name))

    def _send_options(self) -> None:
        """Tell the engine what a scheduler has changed."""
        send_changes(self._engine, self.optimizer, self._options_of, self._sent)

    def _note_step(self) -> None:
        """The model is behind from now on; and schedulers ask whether the optimizer has stepped."""
        self._ahead = True
        self.optimizer._opt_called = True  # type: ignore[attr-defined]

    def _group_of(self) -> dict[int, int]:
        """Return the optimizer's group of each parameter, by the parameter's id."""
        return {id(p): index for index, group in enumerate(self.optimizer.param_groups) for p in group["params"]}


def refuse_inputs(x: Tensor) -> None:
    """Raise unless the kernels can read these inputs."""
    if getattr(x, "dtype", None) is not torch.float32 or not x.is_cpu:
        _refuse_others("inputs", x)
        kind = str(x.dtype).removeprefix("torch.")
        raise SecateurError(f"the inputs must be float32 on cpu, got {kind} on {x.device.type}")


def refuse_targets(targets: Tensor, samples: int) -> None:
    """Raise unless the kernels can read these class numbers, one per sample."""
    if getattr(targets, "dtype", None) is not torch.int64 or not targets.is_cpu or targets.shape != (samples,):
        _refuse_others("targets", targets)
        raise SecateurError(
            f"`targets` must be {samples} class numbers, int64 on cpu, got {targets.dtype} of shape "
            f"{tuple(targets.shape)} on {targets.device.type}"
        )
    if not targets.is_contiguous():
        raise SecateurError("`targets` must be contiguous; call targets.contiguous()")


def _refuse_others(what: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise SecateurError(f"the {what} must be a torch tensor, got {named(value)}; torch.as_tensor(…) makes one")
