"""The training loop: pure in (seed, step), so that a run that was killed ends as if it had not been."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.lab.data import steps_in
from secateur.lab.experiment import Recipe
from secateur.lab.running._engine import Stepper

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
    first: int = 0  # the step at which this training began
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
            "first": self.first,
            "seconds": self.seconds,
            "evaluating": self.evaluating,
            "curve": self.curve,
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], loss_sum: Tensor) -> Trail:
        """Rebuild a trail that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is no such data.
        """
        curve = [(int(step), float(loss)) for step, loss in data["curve"]]
        evaluations = [_evaluation(**evaluation) for evaluation in data["evaluations"]]
        step, seconds = int(data["step"]), (float(data["seconds"]), float(data["evaluating"]))
        if step < 0 or loss_sum.shape != () or loss_sum.dtype != torch.float64:
            raise ValueError(f"step {step} and a sum of losses of shape {tuple(loss_sum.shape)}, {loss_sum.dtype}")
        return cls(step, int(data.get("first", 0)), *seconds, curve, evaluations, loss_sum)


def _evaluation(step: int, validation_error: float | None, test_error: float) -> Evaluation:
    return Evaluation(int(step), None if validation_error is None else float(validation_error), float(test_error))


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
    trail: Trail | None = None,
    evaluate_every: int,
    save_every: float = 20.0,
    save: Callable[[Trail], None] | None = None,
    on_step: Callable[[Trail], None] | None = None,
) -> Trail:
    """Train `model` in place by a recipe, from the start or from where a checkpoint stands.

    The model must have been built and masked; the weights and the optimizer memory of a checkpoint have been put back
    by the caller. Data order and augmentation come from `batches(step)`, a pure function, so nothing else carries
    state.

    Args:
        model: the network, on the device of the batches.
        stepper: the engine that takes the steps.
        recipe: length and learning rate.
        batches: step → (inputs, targets).
        splits: the validation and the test set.
        trail: of the checkpoint to go on from, which is continued.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        save_every: seconds between two calls of `save`. How often it is called changes no bit of the result.
        save: writes a checkpoint; None saves nothing.
        on_step: called after the loss curve got a point, and after each evaluation.

    Returns:
        The trail: loss curve, evaluations, seconds.

    Raises:
        DivergedError: the loss is no longer finite.
    """
    trail = trail or Trail()
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
            judge(stepper, splits, trail)
        if save is not None and not last and time.perf_counter() - last_save >= save_every:
            save(trail)
            last_save = time.perf_counter()
        if on_step is not None and (logs or judges):
            on_step(trail)
    stepper.sync()
    return trail


def evaluation_interval(recipe: Recipe, examples: int) -> int:
    """Return the steps between two evaluations: the recipe's, or those of an epoch of so many training examples.

    >>> from secateur.lab.experiment import Constant
    >>> evaluation_interval(Recipe(steps=1000, rate=Constant(0.1), batch=100), 54_000)
    540
    """
    return recipe.evaluate_every or steps_in(examples, recipe.batch, epochs=1)


def evaluations(recipe: Recipe, examples: int) -> int:
    """Return how many evaluations a run has; the last step is always evaluated.

    >>> from secateur.lab.experiment import Constant
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


def judge(stepper: Stepper, splits: Splits, trail: Trail) -> None:
    """Evaluate the network as it is; an evaluation of the same step gives way."""
    start = time.perf_counter()
    if trail.evaluations and trail.evaluations[-1].step == trail.step:
        trail.evaluations.pop()
    held_out = error(stepper.predict, *splits.validation) if len(splits.validation[1]) else None
    trail.evaluations.append(Evaluation(trail.step, held_out, error(stepper.predict, *splits.test)))
    trail.evaluating += time.perf_counter() - start


def _log(trail: Trail) -> None:
    last = trail.curve[-1][0] if trail.curve else trail.first
    mean = trail.loss_sum.item() / (trail.step - last)
    if not math.isfinite(mean):
        raise DivergedError(f"training diverged: the loss is {mean} after step {trail.step}. Lower the learning rate.")
    trail.curve.append((trail.step, mean))
    trail.loss_sum = torch.zeros_like(trail.loss_sum)
