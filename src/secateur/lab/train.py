"""The training loop: pure in (seed, step), so that a run that was killed ends as if it had not been."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.lab.data import steps_in
from secateur.lab.engine import Choice, Engine, Stepper
from secateur.lab.recipe import Recipe
from secateur.lab.store import damaged, read_tensors, write_tensors

Batches = Callable[[int], tuple[Tensor, Tensor]]

_LOGS_PER_RUN = 200  # points of the loss curve
_EVALUATION_BATCH = 1000


class DivergedError(SecateurError):
    """The training loss became infinite or NaN."""


@dataclass(frozen=True)
class Evaluation:
    """Fractions of wrongly classified examples after `step` optimizer steps; None where nothing is held out."""

    step: int
    validation_error: float | None
    test_error: float


@dataclass
class Trail:
    """What has happened so far in a training run; a checkpoint holds it beside the weights."""

    step: int = 0
    seconds: float = 0.0  # in training steps, over all the processes that took part
    evaluating: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    # Summed in float64 on the device: no transfer, and no rounding that depends on where a run was cut.
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensor."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "evaluating": self.evaluating,
            "curve": self.curve,
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], loss_sum: Tensor) -> Trail:
        """Rebuild a trail that `to_json` wrote."""
        curve = [(int(step), float(loss)) for step, loss in data["curve"]]
        evaluations = [Evaluation(**evaluation) for evaluation in data["evaluations"]]
        seconds = float(data["seconds"]), float(data["evaluating"])
        return cls(int(data["step"]), *seconds, curve, evaluations, loss_sum)


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run is saved while it goes on, how often, and whose it is.

    Args:
        path: the file; replaced as a whole at each save.
        owner: written into the file and compared on reading, so that no run continues from another's weights.
        every: seconds between two saves. Saves are snapshots: how often they happen changes no bit of the
            result.
    """

    path: Path
    owner: str
    every: float = 20.0

    def save(self, model: nn.Module, stepper: Stepper, trail: Trail) -> None:
        """Write model, optimizer memory and trail in one atomic file."""
        stepper.sync()
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in stepper.state().items()}
        tensors["loss_sum"] = trail.loss_sum
        chosen = {"name": str(stepper.choice.engine), "why": stepper.choice.why}
        about = {"owner": self.owner, "engine": chosen, "trail": trail.to_json()}
        write_tensors(self.path, tensors, about)

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
            parts = {prefix: _below(f"{prefix}/", tensors) for prefix in ("model", "optimizer")}
            choice = Choice(Engine(about["engine"]["name"]), about["engine"]["why"])
            return Saved(choice, parts["model"], parts["optimizer"], trail)
        except (KeyError, TypeError, ValueError) as problem:
            raise damaged(self.path, f"{type(problem).__name__}: {problem}") from None


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint."""

    choice: Choice
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    trail: Trail


@dataclass(frozen=True)
class Splits:
    """The two sets a model is judged on, each (inputs, targets)."""

    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def train(
    model: nn.Module,
    stepper: Stepper,
    recipe: Recipe,
    batches: Batches,
    splits: Splits,
    *,
    checkpoint: Checkpoint | None = None,
    saved: Saved | None = None,
    evaluate_every: int,
    on_step: Callable[[Trail], None] | None = None,
) -> Trail:
    """Train `model` in place by a recipe, from the start or from where a checkpoint stands.

    The model must have been built and masked; `saved` weights and optimizer memory have been put back by the
    caller (`resume`). Data order and augmentation come from `batches(step)`, a pure function, so nothing else
    carries state.

    Args:
        model: the network, on the device of the batches.
        stepper: the engine that takes the steps.
        recipe: length and learning rate.
        batches: step → (inputs, targets).
        splits: the validation and the test set.
        checkpoint: where to save; None saves nothing.
        saved: the checkpoint to go on from; its trail is continued.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        on_step: called after the loss curve got a point, and after each evaluation.

    Returns:
        The trail: loss curve, evaluations, seconds.

    Raises:
        DivergedError: the loss is no longer finite.
    """
    trail = Trail() if saved is None else saved.trail
    log_every = max(1, recipe.steps // _LOGS_PER_RUN)
    last_save = time.perf_counter()
    model.train()
    for step in range(trail.step, recipe.steps):
        start = time.perf_counter()
        inputs, targets = batches(step)
        loss = stepper.step(inputs, targets, recipe.rate(step))
        trail.loss_sum = trail.loss_sum.to(loss.device) + loss
        trail.step = step + 1
        last = trail.step == recipe.steps
        logs = last or trail.step % log_every == 0
        judges = last or trail.step % evaluate_every == 0
        if logs:
            _log(trail)  # a GPU is waited for here, and only here: that is training too
        trail.seconds += time.perf_counter() - start
        if judges:
            _judge(stepper, splits, trail)
        if checkpoint is not None and not last and time.perf_counter() - last_save >= checkpoint.every:
            checkpoint.save(model, stepper, trail)
            last_save = time.perf_counter()
        if on_step is not None and (logs or judges):
            on_step(trail)
    stepper.sync()
    return trail


def resume(model: nn.Module, stepper: Stepper, saved: Saved, path: Path) -> None:
    """Put a checkpoint's weights and optimizer memory back.

    Raises:
        ArtefactError: they do not fit the model.
    """
    try:
        model.load_state_dict(saved.model)
        stepper.restore(saved.optimizer)
    except (RuntimeError, SecateurError) as problem:
        raise damaged(path, " ".join(str(problem).split())) from None


def evaluation_interval(recipe: Recipe, examples: int) -> int:
    """Return the steps between two evaluations: the recipe's, or those of an epoch of so many training examples.

    >>> from secateur.lab.recipe import Constant
    >>> evaluation_interval(Recipe(steps=1000, rate=Constant(0.1), batch=100), 54_000)
    540
    """
    return recipe.evaluate_every or steps_in(examples, recipe.batch, epochs=1)


def evaluations(recipe: Recipe, examples: int) -> int:
    """Return how many evaluations a run has; the last step is always evaluated.

    >>> from secateur.lab.recipe import Constant
    >>> evaluations(Recipe(steps=1000, rate=Constant(0.1), batch=100), 54_000)
    2
    """
    return -(-recipe.steps // evaluation_interval(recipe, examples))


def error(predict: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of wrongly classified examples, of which there must be some.

    >>> error(lambda x: x, torch.eye(4), torch.tensor([0, 1, 2, 0]))
    0.25
    """
    wrong = torch.zeros((), dtype=torch.int64, device=targets.device)
    for some, truth in zip(inputs.split(_EVALUATION_BATCH), targets.split(_EVALUATION_BATCH), strict=True):
        wrong += (predict(some).argmax(dim=1) != truth).sum()
    return wrong.item() / len(targets)


def _judge(stepper: Stepper, splits: Splits, trail: Trail) -> None:
    start = time.perf_counter()
    held_out = error(stepper.predict, *splits.validation) if len(splits.validation[1]) else None
    trail.evaluations.append(Evaluation(trail.step, held_out, error(stepper.predict, *splits.test)))
    trail.evaluating += time.perf_counter() - start


def _log(trail: Trail) -> None:
    last = trail.curve[-1][0] if trail.curve else 0
    mean = trail.loss_sum.item() / (trail.step - last)
    if not math.isfinite(mean):
        raise DivergedError(f"training diverged: the loss is {mean} after step {trail.step}. Lower the learning rate.")
    trail.curve.append((trail.step, mean))
    trail.loss_sum = torch.zeros_like(trail.loss_sum)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
