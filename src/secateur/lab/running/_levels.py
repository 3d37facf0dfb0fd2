"""The trainings of a program: each an artefact that is read where it exists, the dense ones shared by all programs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.holding import held
from secateur.lab.experiment import Engine, dense, untrained
from secateur.lab.repeat import damaged, read_tensors, write_tensors
from secateur.lab.running._checkpoint import Checkpoint
from secateur.lab.running._engine import Choice
from secateur.lab.running._train import Trail
from secateur.lab.running._work import LEVEL, STAGE, WEIGHTS, State, Work, fit_weights, load_weights, trained
from secateur.tickets import Stage

__all__ = ["Levels", "fingerprint_of"]

_MEMORY = "optimizer/"


class Levels:
    """Trains a network for a program: the present weights, held by the program, for the experiment's recipe.

    The program is called anew when its run goes on. It does the same again, and its trainings, which are known by the
    weights that they start from, are read instead of repeated. A dense training from the first weights is the run
    without pruning, which is finished first if it is not; parts of dense trainings lie in its directory, where other
    programs find them.

    Attributes:
        steps: training steps that were asked for so far, wherever their result was found.
        last: what the last training ended in; None before there is one, and where it was the dense run.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.count = 0
        self.steps = 0
        self.last: State | None = None

    def __call__(self, model: nn.Module, stage: Stage | None = None) -> dict[str, Tensor]:
        """Train `model` in place, or a part of its training; return what the optimizer remembers."""
        work, begun = self.work, _name_of(model, stage)
        self.count += 1
        self.steps += work.experiment.recipe.steps if stage is None else stage.stop - stage.start
        if stage is None and self._as_dense(model, begun):
            self.last = None
            return {}
        path, owner = self._place(model, stage, begun), f"{work.experiment.name}/{self.count}/{begun}"
        checkpoint = Checkpoint(work.directory / f"{LEVEL}{self.count}.checkpoint", owner)
        if path.exists():
            self.last = _read(path, model, begun)
        else:
            self.last = trained(work, State(model), checkpoint, stage=f"level {self.count}", part=stage)
            _write(path, self.last, begun)
        checkpoint.path.unlink(missing_ok=True)
        return dict(self.last.memory)  # where each belongs is for who takes it up to say: Adam's counter is on the CPU

    def _place(self, model: nn.Module, stage: Stage | None, begun: str) -> Path:
        if stage is None or stage.among is not None or held(model):
            return self.work.directory / f"{LEVEL}{self.count}.safetensors"
        twin = dense(self.work.experiment, seed=self.work.experiment.seed)
        return self.work.directory.parent / twin.name / f"{STAGE}{stage.start}-{stage.stop}-{begun}.safetensors"

    def _as_dense(self, model: nn.Module, begun: str) -> bool:
        """Take the weights of the dense run where a training begins as that does."""
        twin = dense(self.work.experiment, seed=self.work.experiment.seed)
        if held(model) or begun != fingerprint_of(untrained(twin).state_dict()):
            return False
        load_weights(model, self.work.finish(twin, self.work.dataset) / WEIGHTS)
        return True


def _read(path: Path, model: nn.Module, begun: str) -> State:
    tensors, about = read_tensors(path)
    if about.get("from") != begun:
        raise damaged(path, "it was trained from other weights than the training that asks for it starts from")
    memory = {name.removeprefix(_MEMORY): value for name, value in tensors.items() if name.startswith(_MEMORY)}
    fit_weights(model, {name: value for name, value in tensors.items() if not name.startswith(_MEMORY)}, path)
    try:
        trail = Trail.from_json(about["trail"], torch.zeros((), dtype=torch.float64))
        choice = Choice(Engine(about["engine"]["name"]), str(about["engine"]["why"]))
    except (AttributeError, LookupError, TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None
    return State(model, choice=choice, trail=trail, memory=memory)


def _write(path: Path, state: State, begun: str) -> None:
    assert state.model is not None and state.trail is not None and state.choice is not None
    tensors = dict(state.model.state_dict()) | {f"{_MEMORY}{name}": value for name, value in state.memory.items()}
    engine = {"name": str(state.choice.engine), "why": state.choice.why}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {"from": begun, "trail": state.trail.to_json(), "engine": engine})


def _name_of(model: nn.Module, stage: Stage | None) -> str:
    """A text that differs when a training would: its first weights, its steps and what the optimizer remembers."""
    if stage is None:
        return fingerprint_of(model.state_dict())
    among = {} if stage.among is None else {"among": stage.among}
    memory = {f"{_MEMORY}{name}": value for name, value in (stage.state or {}).items()}
    steps = torch.tensor([stage.start, stage.stop, stage.of, -1 if stage.rate is None else stage.rate])
    return fingerprint_of({**model.state_dict(), **memory, **among, "steps": steps})


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name tensors by their content."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
