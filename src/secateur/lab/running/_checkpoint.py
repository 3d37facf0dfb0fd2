"""What a training run has when it is cut: weights, optimizer memory, the pruner's state and the trail, in one file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur._base.errors import CheckpointWarning, SecateurError, told
from secateur.lab.experiment import Engine
from secateur.lab.repeat import damaged, read_tensors, write_tensors
from secateur.lab.running._engine import Choice, Stepper
from secateur.lab.running._train import Trail


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run is saved while it goes on, and whose it is.

    Args:
        path: the file; replaced as a whole at each save.
        owner: written into the file and compared on reading, so that no run continues from another's weights.
    """

    path: Path
    owner: str

    def save(self, model: nn.Module, stepper: Stepper, trail: Trail) -> None:
        """Write model, optimizer memory, the pruner's state and the trail in one atomic file.

        Warns:
            CheckpointWarning: it could not be written. Training may go on: the one before is as it was.
        """
        stepper.sync()
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in stepper.state().items()}
        tensors["loss_sum"] = trail.loss_sum
        chosen = {"name": str(stepper.choice.engine), "why": stepper.choice.why}
        about = {"owner": self.owner, "engine": chosen, "trail": trail.to_json()}
        if stepper.pruner is not None:
            about["pruner"] = packed(stepper.pruner.state_dict(), "pruner", tensors)
        try:
            write_tensors(self.path, tensors, about)
        except OSError as problem:
            warnings.warn(
                f"no checkpoint could be written ({told(problem, way_out=False)}): training goes on, and if it is cut "
                "off it goes back to the checkpoint before.",
                CheckpointWarning,
                stacklevel=2,
            )

    def load(self) -> Saved | None:
        """Read the file back; None where there is none.

        Raises:
            ArtefactError: the file is damaged or belongs to another run.
        """
        if not self.path.exists():
            return None
        tensors, about = read_tensors(self.path)
        if about.get("owner") != self.owner:
            raise damaged(self.path, f"it belongs to run {about.get('owner')!r}, not to {self.owner!r}")
        try:
            trail = Trail.from_json(about["trail"], tensors.pop("loss_sum"))
            model, optimizer = (_below(f"{prefix}/", tensors) for prefix in ("model", "optimizer"))
            choice = Choice(Engine(about["engine"]["name"]), about["engine"]["why"])
            return Saved(choice, model, optimizer, unpacked(about.get("pruner"), tensors), trail)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as problem:
            raise damaged(self.path, f"{type(problem).__name__}: {problem}") from None

    def put_back(self, saved: Saved, model: nn.Module, stepper: Stepper) -> None:
        """Give a checkpoint's weights, optimizer memory and pruner's state to what goes on from them.

        Raises:
            ArtefactError: they do not fit the model.
        """
        try:
            model.load_state_dict(saved.model)
            if stepper.pruner is not None:
                stepper.pruner.load_state_dict(saved.pruner)
            stepper.restore(saved.optimizer)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
            raise damaged(self.path, " ".join(str(problem).split())) from None


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint."""

    choice: Choice
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    pruner: Any
    trail: Trail


def packed(state: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a state (mappings, lists, tensors, numbers, strings) into JSON-ready data; its tensors go into `tensors`.

    Keys may be strings or whole numbers, which JSON would turn into strings: a mapping becomes a list of pairs.

    Raises:
        SecateurError: something of another kind, which no safe file can hold.

    >>> import torch
    >>> tensors = {}
    >>> packed({"step": 3, "masks": {"w": torch.ones(2)}}, "p", tensors)
    {'pairs': [['step', 3], ['masks', {'pairs': [['w', {'tensor': 'p/masks/w'}]]}]]}
    >>> unpacked({"pairs": [["w", {"tensor": "p/masks/w"}]]}, tensors)
    {'w': tensor([1., 1.])}
    """
    if isinstance(state, Tensor):
        tensors[prefix] = state
        return {"tensor": prefix}
    if isinstance(state, Mapping):
        return {"pairs": [[key, packed(value, f"{prefix}/{key}", tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [packed(value, f"{prefix}/{index}", tensors) for index, value in enumerate(state)]
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise SecateurError(f"the state of a pruner holds tensors and numbers, got {type(state).__name__} at {prefix!r}.")


def unpacked(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild what `packed` made; tuples come back as lists.

    Raises:
        KeyError: it speaks of a tensor that is not there, or is no such data.
    """
    if isinstance(data, list):
        return [unpacked(value, tensors) for value in data]
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]]
    return {key: unpacked(value, tensors) for key, value in data["pairs"]}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
