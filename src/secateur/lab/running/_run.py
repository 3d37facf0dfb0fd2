"""Run an experiment stage by stage: what is done is skipped, what was cut off goes on to the same bits."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from secateur.lab.data import Dataset
from secateur.lab.experiment import Experiment, check, load_data, pretraining, trained_on
from secateur.lab.repeat import ArtefactError, damaged, locked, read_json, write_json, write_tensors
from secateur.lab.running._facts import machine, sizes
from secateur.lab.running._phases import phases_of
from secateur.lab.running._result import Result, experiment_in
from secateur.lab.running._train import DivergedError
from secateur.lab.running._work import (
    CHECKPOINT,
    EXPERIMENT,
    FAILURE,
    LEVEL,
    MASKS,
    RESULT,
    START,
    WEIGHTS,
    OnProgress,
    Progress,
    State,
    Work,
)
from secateur.masks import prunable
from secateur.pruning import emptied_layers

_FAILED = "secateur.failure/1"


def run(
    experiment: Experiment,
    *,
    root: str | Path = "runs",
    data_dir: str | Path | None = None,
    dataset: Dataset | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 20.0,
    wait: bool = False,
    on_progress: OnProgress | None = None,
) -> Result:
    """Run an experiment in `root / experiment.name`, or return its result if it has run.

    A run is a sequence of phases (`secateur.lab.running.phases_of`), for most methods: weights (a pure function of
    the seed) → masks.safetensors → training, with checkpoint.safetensors on the way → weights.safetensors →
    result.json. A phase whose artefact exists is skipped. Killing the process at any moment and calling again ends
    in the same weights, bit for bit, on the same machine with the same number of threads.

    Args:
        experiment: what to run.
        root: where runs' directories are.
        data_dir: where to look for the data set first.
        dataset: the data set, if the caller has loaded it already (`load_data`).
        device: where to compute.
        save_every: seconds between checkpoints; no bit of the result depends on it.
        wait: while another process runs this experiment, wait for it.
        on_progress: is told how it goes.

    Raises:
        SecateurError: a name or an option that does not exist; nothing was written.
        ArtefactError: a damaged or foreign file; the message says which and the way out.
        BusyError: another process is running this experiment.
        DivergedError: the training loss is no longer finite.
    """
    tell = on_progress or (lambda news: None)
    directory = Path(root) / experiment.name

    def finish(other: Experiment, dataset: Dataset) -> Path:
        places = partial(run, root=root, data_dir=data_dir, device=device, save_every=save_every)
        return places(other, dataset=dataset, wait=True, on_progress=on_progress).directory

    if not (directory / RESULT).exists():
        check(experiment)
        with locked(directory, wait=wait):
            _claim(directory, experiment)
            begun = time.perf_counter()
            found = dataset or load_data(experiment, data_dir=data_dir, device=device)
            state = State(seconds={"data": time.perf_counter() - begun})
            _compute(Work(experiment, directory, found, torch.device(device), save_every, tell, finish), state)
    result = _result_in(directory, experiment)
    steps = experiment.recipe.steps
    tell(Progress(experiment, "done", steps, steps, error=result.test_error, density=result.facts["density"]))
    return result


def _result_in(directory: Path, experiment: Experiment) -> Result:
    """Read the result of a run that is done, and remove what helped to get there."""
    left_over = [directory / name for name in (FAILURE, CHECKPOINT, START)]
    for path in (*left_over, *directory.glob(f"{LEVEL}*")):  # of no use any more, and most as large as the network
        path.unlink(missing_ok=True)
    result = Result.load(directory)
    _require_same(experiment, result.experiment, directory / RESULT)
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
        return str(read_json(path, kind=_FAILED)["why"])
    except KeyError as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None


def _claim(directory: Path, experiment: Experiment) -> None:
    path = directory / EXPERIMENT
    if path.exists():
        _require_same(experiment, experiment_in(directory), path)
    else:
        write_json(path, experiment.to_json())


def _require_same(experiment: Experiment, found: Experiment, path: Path) -> None:
    if found != experiment:
        raise ArtefactError(
            f"{path} speaks of another experiment ({found.name}). "
            "Delete the directory, or use another --runs directory."
        )


def _compute(work: Work, state: State) -> None:
    """Go through the phases, and write result.json last."""
    if (work.directory / RESULT).exists():  # another process finished it while this one waited for it
        return
    try:
        for phase in phases_of(work.experiment):
            state = phase(work, state)
    except DivergedError as problem:  # what this experiment ends in: it belongs to what was found out
        write_json(work.directory / FAILURE, {"format": _FAILED, "why": str(problem)})
        raise
    assert state.model is not None
    write_tensors(work.directory / WEIGHTS, state.model.state_dict())
    write_json(work.directory / RESULT, _result(work, state))


def _result(work: Work, state: State) -> dict[str, Any]:
    """Gather the facts; only `seconds` and `machine` depend on the clock and the machine."""
    experiment, dataset, masks, trail, choice = work.experiment, work.dataset, state.masks, state.trail, state.choice
    assert state.model is not None and trail is not None and choice is not None
    recipe, last = experiment.recipe, trail.evaluations[-1]
    best = min(trail.evaluations, key=lambda one: one.test_error)
    validated = [(one.validation_error, one) for one in trail.evaluations if one.validation_error is not None]
    _, selected = min(validated, key=lambda pair: pair[0], default=(None, None))
    epochs = recipe.batch / len(dataset.train)
    prunable_count = sum(parameter.numel() for parameter in prunable(state.model).values())
    layers = [] if masks is None else masks.layers()
    before = pretraining(experiment)
    seconds = {"prune": 0.0} | dict(state.seconds) | {"train": trail.seconds, "evaluate": trail.evaluating}
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
        **({} if state.exploration is None else {"exploration": state.exploration}),
        "empty": [] if masks is None else emptied_layers(masks),
        "bytes": sizes(state.model, masks),
        "curve": [{"step": step, "loss": loss} for step, loss in trail.curve],
        "evaluations": [asdict(evaluation) for evaluation in trail.evaluations],
        "engine": {"name": str(choice.engine), "why": choice.why},
        "data": {"title": trained_on(experiment, dataset).title, "digest": dataset.digest, "train": len(dataset.train)},
        **({} if before is None else {"pretrained": before.name}),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "machine": machine(work.device),
    }
