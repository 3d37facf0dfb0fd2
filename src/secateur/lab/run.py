"""Run an experiment stage by stage: what is done is skipped, what was cut off goes on to the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.lab import data, engine, facts, stages, store
from secateur.lab.data import Dataset
from secateur.lab.engine import Choice, Stepper
from secateur.lab.experiment import Experiment
from secateur.lab.stages import MASKS, Pruned
from secateur.lab.store import ArtefactError
from secateur.lab.train import Checkpoint, DivergedError, Splits, Trail, evaluation_interval, resume, train
from secateur.masks import prunable
from secateur.pruning import emptied_layers

EXPERIMENT = "experiment.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
RESULT = "result.json"
FAILURE = "failure.json"


@dataclass(frozen=True)
class Progress:
    """News of a run. Errors are fractions; None where there is nothing to say yet."""

    experiment: Experiment
    stage: str
    step: int
    steps: int
    loss: float | None = None
    error: float | None = None
    density: float | None = None


OnProgress = Callable[[Progress], None]

_FAILED = "secateur.failure/1"


@dataclass(frozen=True)
class Result:
    """A finished run: the experiment, its directory, and the facts of its result.json."""

    experiment: Experiment
    directory: Path
    facts: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def test_error(self) -> float:
        """Fraction of wrongly classified test examples after the last step."""
        return float(self.facts["test_error"])

    @property
    def best_test_error(self) -> float:
        """The lowest test error of all evaluations: chosen on the test set, so optimistic."""
        return float(self.facts["best"]["test_error"])

    @staticmethod
    def load(directory: Path) -> Result:
        """Read a finished run's result.

        Raises:
            ArtefactError: result.json is damaged.
        """
        path = directory / RESULT
        content = store.read_json(path)
        try:
            result = Result(Experiment.from_json(content["experiment"]), directory, content)
            _ = result.test_error, result.best_test_error
        except (KeyError, TypeError, ValueError) as problem:
            raise store.damaged(path, f"{type(problem).__name__}: {problem}") from None
        return result


def run(
    experiment: Experiment,
    *,
    root: str | Path = "runs",
    data_dir: str | Path | None = None,
    dataset: Dataset | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 20.0,
    on_progress: OnProgress | None = None,
) -> Result:
    """Run an experiment in `root / experiment.name`, or return its result if it has run.

    Stages: weights (a pure function of the seed) → masks.safetensors → training, with checkpoint.safetensors
        on the way →
    weights.safetensors → result.json. A stage whose artefact exists is skipped. Killing the process at any
    moment and calling again ends in the same weights, bit for bit, on the same machine with the same number
    of threads.

    Args:
        experiment: what to run.
        root: where runs' directories are.
        data_dir: where to look for the data set first.
        dataset: the data set, if the caller has loaded it already (`stages.load`).
        device: where to compute.
        save_every: seconds between checkpoints; no bit of the result depends on it.
        on_progress: is told how it goes.

    Raises:
        SecateurError: a name or an option that does not exist; nothing was written.
        ArtefactError: a damaged or foreign file; the message says which and the way out.
        BusyError: another process is running this experiment.
        DivergedError: the training loss is no longer finite.
    """
    tell = on_progress or (lambda news: None)
    directory = Path(root) / experiment.name
    steps = experiment.recipe.steps
    if not (directory / RESULT).exists():
        stages.check(experiment)
        with store.locked(directory):
            _claim(directory, experiment)
            try:
                _compute(experiment, directory, _Setting(data_dir, dataset, torch.device(device), save_every, tell))
            except DivergedError as problem:  # what this experiment ends in: it belongs to what was found out
                store.write_json(directory / FAILURE, {"format": _FAILED, "why": str(problem)})
                raise
    (directory / FAILURE).unlink(missing_ok=True)  # of an earlier attempt
    (directory / CHECKPOINT).unlink(missing_ok=True)  # of no use any more, and as large as the network
    result = Result.load(directory)
    _require_same(experiment, result.experiment, directory / RESULT)
    tell(Progress(experiment, "done", steps, steps, error=result.test_error, density=result.facts["density"]))
    return result


def state_of(directory: Path) -> str:
    """Say in one word how far a run has come: "finished", "diverged", "training", "pruned" or "begun".

    A run that diverged is tried again when it is asked for again.
    """
    states = ((RESULT, "finished"), (FAILURE, "diverged"), (CHECKPOINT, "training"), (MASKS, "pruned"))
    for artefact, state in states:
        if (directory / artefact).exists():
            return state
    return "begun"


def why_diverged(directory: Path) -> str:
    """Return the sentence that a diverged run ended with.

    Raises:
        ArtefactError: failure.json is damaged.
    """
    path = directory / FAILURE
    try:
        return str(store.read_json(path, kind=_FAILED)["why"])
    except KeyError as problem:
        raise store.damaged(path, f"{type(problem).__name__}: {problem}") from None


@dataclass(frozen=True)
class _Setting:
    """Where and under whose eyes a run happens: nothing here changes what it computes."""

    data_dir: str | Path | None
    dataset: Dataset | None
    device: torch.device
    save_every: float
    tell: OnProgress


def _claim(directory: Path, experiment: Experiment) -> None:
    path = directory / EXPERIMENT
    if path.exists():
        _require_same(experiment, Experiment.from_json(store.read_json(path)), path)
    else:
        store.write_json(path, experiment.to_json())


def _require_same(experiment: Experiment, found: Experiment, path: Path) -> None:
    if found != experiment:
        raise ArtefactError(
            f"{path} speaks of another experiment ({found.name}). "
            "Delete the directory, or use another --runs directory."
        )


def _compute(experiment: Experiment, directory: Path, setting: _Setting) -> None:
    """Prune, train, and write result.json last."""
    (directory / RESULT).unlink(missing_ok=True)
    start = time.perf_counter()
    dataset = setting.dataset or stages.load(experiment, data_dir=setting.data_dir, device=setting.device)
    loading = time.perf_counter() - start
    setting.tell(Progress(experiment, "prune", 0, experiment.recipe.steps))
    pruned = stages.prune_stage(experiment, directory, dataset, setting.device)
    model = stages.survivors(experiment, pruned.masks).to(setting.device)
    dataset = stages.trained_on(experiment, dataset)
    choice, trail = _train(experiment, directory, dataset, model, pruned, setting)
    store.write_tensors(directory / WEIGHTS, model.state_dict())
    seconds = {"data": loading, "prune": pruned.seconds, "train": trail.seconds, "evaluate": trail.evaluating}
    content = _result(experiment, dataset, model, pruned, trail, choice) | {
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "machine": facts.machine(setting.device),
    }
    store.write_json(directory / RESULT, content)


def _train(
    experiment: Experiment,
    directory: Path,
    dataset: Dataset,
    model: nn.Module,
    pruned: Pruned,
    setting: _Setting,
) -> tuple[Choice, Trail]:
    recipe, masks, bf16 = experiment.recipe, pruned.masks, experiment.bf16
    checkpoint = Checkpoint(directory / CHECKPOINT, f"{experiment.name}/{pruned.fingerprint}", setting.save_every)
    saved = checkpoint.load()
    # A run goes on with the engine it began with: engines differ in their last bits.
    choice = saved.choice if saved else engine.choose(experiment.engine, model, masks, recipe.optimizer, bf16=bf16)
    augment = dataset.augment if recipe.augment else None

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return data.batch_at(dataset.train, recipe.batch, seed=experiment.seed, step=step, augment=augment)

    stepper: Stepper = engine.start(choice, model, masks, recipe.optimizer, bf16=bf16)
    try:
        if saved is not None:
            resume(model, stepper, saved, checkpoint.path)
        trail = train(
            model,
            stepper,
            recipe,
            batches,
            Splits((dataset.validation.x, dataset.validation.y), (dataset.test.x, dataset.test.y)),
            checkpoint=checkpoint,
            saved=saved,
            evaluate_every=evaluation_interval(recipe, len(dataset.train)),
            on_step=_teller(experiment, pruned, setting.tell),
        )
        stepper.verify()
    finally:
        stepper.close()
    return choice, trail


def _teller(experiment: Experiment, pruned: Pruned, tell: OnProgress) -> Callable[[Trail], None]:
    density = 1.0 if pruned.masks is None else pruned.masks.density

    def on_step(trail: Trail) -> None:
        error = trail.evaluations[-1].validation_error if trail.evaluations else None
        loss = trail.curve[-1][1] if trail.curve else None
        tell(Progress(experiment, "train", trail.step, experiment.recipe.steps, loss, error, density))

    return on_step


def _result(
    experiment: Experiment, dataset: Dataset, model: nn.Module, pruned: Pruned, trail: Trail, choice: Choice
) -> dict[str, Any]:
    """Gather the facts that do not depend on the clock or the machine."""
    recipe, masks = experiment.recipe, pruned.masks
    last = trail.evaluations[-1]
    best = min(trail.evaluations, key=lambda one: one.test_error)
    validated = [(one.validation_error, one) for one in trail.evaluations if one.validation_error is not None]
    _, selected = min(validated, key=lambda pair: pair[0], default=(None, None))
    epochs = recipe.batch / len(dataset.train)
    prunable_count = sum(parameter.numel() for parameter in prunable(model).values())
    layers = [] if masks is None else masks.layers()
    return {
        "format": "secateur.result/1",
        "run": experiment.name,
        "experiment": experiment.to_json(),
        "test_error": last.test_error,
        "validation_error": last.validation_error,
        "best": asdict(best) | {"epoch": round(best.step * epochs, 3)},
        "selected": None if selected is None else asdict(selected) | {"epoch": round(selected.step * epochs, 3)},
        "steps": trail.step,
        "epochs": round(trail.step * epochs, 3),
        "seed": experiment.seed,
        "density": 1.0 if masks is None else masks.density,
        "kept": prunable_count if masks is None else masks.kept,
        "prunable": prunable_count if masks is None else masks.numel,
        "layers": [asdict(layer) | {"density": layer.density} for layer in layers],
        "empty": [] if masks is None else emptied_layers(masks),
        "bytes": facts.sizes(model, masks),
        "curve": [{"step": step, "loss": loss} for step, loss in trail.curve],
        "evaluations": [asdict(evaluation) for evaluation in trail.evaluations],
        "engine": {"name": str(choice.engine), "why": choice.why},
        "data": {"title": dataset.title, "digest": dataset.digest, "train": len(dataset.train)},
    }
