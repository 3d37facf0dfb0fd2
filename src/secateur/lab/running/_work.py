"""What the phases of a run work on and hand on; and the one way in which any of them trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.lab import data
from secateur.lab.data import Dataset, Examples
from secateur.lab.experiment import DENSE, Constant, Engine, Experiment, Recipe, shortened, trained_on
from secateur.lab.repeat import damaged, derive, read_tensors
from secateur.lab.running._checkpoint import Checkpoint, Saved
from secateur.lab.running._engine import Begin, Choice, Stepper, choose, start
from secateur.lab.running._train import Splits, Trail, evaluation_interval, judge, train
from secateur.masks import Masks
from secateur.tickets import Stage

EXPERIMENT = "experiment.json"
PRUNE = "prune.json"
MASKS = "masks.safetensors"
LEVEL = "level-"  # what the names of a program's trainings begin with
STAGE = "stage-"  # and of parts of dense trainings, in the directory of the dense run
START = "start.safetensors"
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


@dataclass(frozen=True)
class Work:
    """A run's experiment and files, and where and under whose eyes it happens.

    Args:
        experiment: what is run.
        directory: where its artefacts are.
        dataset: with the true labels.
        device: where it is computed.
        save_every: seconds between checkpoints.
        tell: is told how it goes.
        finish: runs another experiment on the same data and in the same place to its end, or finds it there; returns
            its directory.
    """

    experiment: Experiment
    directory: Path
    dataset: Dataset
    device: torch.device
    save_every: float
    tell: OnProgress
    finish: Callable[[Experiment, Dataset], Path]


@dataclass(frozen=True)
class State:
    """What one phase hands on to the next.

    Args:
        model: the network as it stands, on the work's device; None before there is one.
        masks: which weights stay; None while nothing has been pruned.
        fingerprint: a short text that differs when what was pruned does.
        seconds: what each phase took, over all the processes that took part.
        choice: who computed the last training steps, and why.
        trail: of the last training.
        exploration: R_s, the share of the weights that training with a `Pruner` has tried; None without one.
        memory: what the optimizer remembers after the last training.
    """

    model: nn.Module | None = None
    masks: Masks | None = None
    fingerprint: str = "dense"
    seconds: Mapping[str, float] = field(default_factory=dict)
    choice: Choice | None = None
    trail: Trail | None = None
    exploration: float | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)


def trained(
    work: Work,
    state: State,
    checkpoint: Checkpoint,
    *,
    stage: str = "train",
    begin: Begin | None = None,
    part: Stage | None = None,
) -> State:
    """Train the state's network by the experiment's recipe, or a part of it, from the start or from the checkpoint.

    Args:
        work: the run.
        state: the network and its masks.
        checkpoint: where training is saved, and read from where it was cut.
        stage: what the news call it.
        begin: begins to prune the network while it is trained; its masks and what it leaves of the weights are the
            state's afterwards.
        part: which steps of which schedule, on which examples; None: all.
    """
    experiment, model = work.experiment, state.model
    assert model is not None
    recipe, dataset = recipe_of(experiment.recipe, part), examples_of(trained_on(experiment, work.dataset), part)
    saved, first = _saved(checkpoint, recipe), 0 if part is None else part.start
    # A run goes on with the engine it began with: engines differ in their last bits.
    choice = saved.choice if saved else _choice(experiment, state, begin)
    splits = Splits((dataset.validation.x, dataset.validation.y), (dataset.test.x, dataset.test.y))
    with _noise_from(work, begin), ExitStack() as opened:
        stepper = start(choice, model, state.masks, recipe.optimizer, bf16=experiment.bf16, begin=begin)
        opened.callback(stepper.close)
        if saved is not None:
            checkpoint.put_back(saved, model, stepper)
        elif part is not None and part.state:
            stepper.restore(part.state)
        trail = train(
            model,
            stepper,
            recipe,
            _batches(experiment, recipe, dataset, seeded=begin is not None),
            splits,
            trail=saved.trail if saved else Trail(first, first),
            evaluate_every=evaluation_interval(recipe, len(dataset.train)),
            save_every=work.save_every,
            save=lambda trail: checkpoint.save(model, stepper, trail),
            on_step=_teller(work, state, stepper, stage),
        )
        stepper.verify()
        return _ended(replace(state, choice=choice, trail=trail), stepper, splits)


def _saved(checkpoint: Checkpoint, recipe: Recipe) -> Saved | None:
    saved = checkpoint.load()
    if saved is not None and saved.trail.step >= recipe.steps:  # none is written after the last step
        raise damaged(checkpoint.path, f"it stands at step {saved.trail.step} of {recipe.steps}")
    return saved


def _ended(state: State, stepper: Stepper, splits: Splits) -> State:
    """The state after training: the optimizer's memory, and what a pruner finished."""
    memory = {name: value.clone() for name, value in stepper.state().items()}
    if stepper.pruner is None:
        return replace(state, memory=memory)
    exploration, masks = stepper.pruner.exploration, stepper.pruner.finish().to("cpu")
    assert state.trail is not None
    judge(stepper, splits, state.trail)  # anew: what is finished may have changed the weights
    return replace(state, masks=masks, exploration=exploration, memory=memory)


def recipe_of(whole: Recipe, part: Stage | None) -> Recipe:
    """The recipe of a part of a training: its schedule stretched, ending where the part does, or at one rate."""
    if part is None:
        return whole
    scaled = whole if part.of == whole.steps else shortened(whole, part.of)
    if part.rate is not None:
        scaled = replace(scaled, rate=Constant(scaled.rate(part.rate)))
    return replace(scaled, steps=part.stop, evaluate_every=whole.evaluate_every)


def examples_of(dataset: Dataset, part: Stage | None) -> Dataset:
    """The data set with the training examples of a part alone."""
    if part is None or part.among is None:
        return dataset
    index = part.among.to(dataset.train.x.device)
    return replace(dataset, train=Examples(dataset.train.x[index], dataset.train.y[index]))


def load_weights(model: nn.Module, path: Path) -> None:
    """Read a phase's weights into a network.

    Raises:
        ArtefactError: the file is damaged, or is of another network.
    """
    fit_weights(model, read_tensors(path)[0], path)


def fit_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give weights that were read from `path` to a network.

    Raises:
        ArtefactError: they are of another network.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as problem:
        raise damaged(path, " ".join(str(problem).split())) from None


def _choice(experiment: Experiment, state: State, begin: Begin | None) -> Choice:
    assert state.model is not None
    if begin is not None:
        return Choice(Engine.TORCH, f"{experiment.method} acts while the network trains")
    if state.masks is None and experiment.method != DENSE:
        return Choice(Engine.TORCH, f"{experiment.method} holds the zeros itself")
    recipe = experiment.recipe
    return choose(experiment.engine, state.model, state.masks, recipe.optimizer, bf16=experiment.bf16)


def _batches(
    experiment: Experiment, recipe: Recipe, dataset: Dataset, *, seeded: bool
) -> Callable[[int], tuple[Tensor, Tensor]]:
    augment = dataset.augment if recipe.augment else None

    def batch(step: int) -> tuple[Tensor, Tensor]:
        if seeded:  # gates draw from the global generator, as dropout does: a function of seed and step, like the rest
            _seed(derive(experiment.seed, "gates", step), dataset.train.x.device)
        return data.batch_at(dataset.train, recipe.batch, seed=experiment.seed, step=step, augment=augment)

    return batch


def _seed(seed: int, device: torch.device) -> None:
    """Seed the global generator of the processor, and of the device that trains.

    `torch.manual_seed` tells every kind of device, and where one has not started yet that is written down for later
    with a stack trace: at every step that took longer than the step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def _noise_from(work: Work, begin: Begin | None) -> Iterator[None]:
    """Where something may draw from the global generator, begin from the seed and leave its state as found."""
    if begin is None:
        yield
        return
    with torch.random.fork_rng([work.device] if work.device.type == "cuda" else []):
        torch.manual_seed(derive(work.experiment.seed, "gates"))
        yield


def _teller(work: Work, state: State, stepper: Stepper, stage: str) -> Callable[[Trail], None]:
    def on_step(trail: Trail) -> None:
        masks = state.masks if stepper.pruner is None else stepper.pruner.masks
        density = 1.0 if masks is None else masks.density
        error = trail.evaluations[-1].validation_error if trail.evaluations else None
        loss = trail.curve[-1][1] if trail.curve else None
        work.tell(Progress(work.experiment, stage, trail.step, work.experiment.recipe.steps, loss, error, density))

    return on_step
