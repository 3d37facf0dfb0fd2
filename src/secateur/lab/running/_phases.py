"""The phases of a run: each takes what the one before left, and leaves an artefact by which it is skipped next time.

    Prune → Train                 most methods: choose once, before training
    Train → Prune → Train         those that score a trained network; the first is a dense run of its own, shared by all
                                  experiments that start from it
    Train, pruning meanwhile      those that act on the optimizer's step
    Program → Train               those that own a loop of trainings, each of which is an artefact too
    Program                       those of them that end trained

Which of them a run consists of follows from what the catalogue says of its method.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.data import Dataset
from secateur.lab.experiment import (
    DENSE,
    Experiment,
    Sanity,
    arguments_of,
    method_of,
    pretraining,
    program_of,
    tags_of,
    untrained,
)
from secateur.lab.repeat import damaged, generator, read_json, write_json, write_tensors
from secateur.lab.running._checkpoint import Checkpoint
from secateur.lab.running._levels import Levels
from secateur.lab.running._work import (
    CHECKPOINT,
    MASKS,
    PRUNE,
    RESULT,
    START,
    WEIGHTS,
    Progress,
    State,
    Work,
    load_weights,
    trained,
)
from secateur.masks import Masks, prunable
from secateur.pruning import Pruner, prune, shuffle

Phase = Callable[[Work, State], State]


def phases_of(experiment: Experiment) -> tuple[Phase, ...]:
    """Return what a run of this experiment does, in order."""
    tags = tags_of(experiment)
    before = () if pretraining(experiment) is None else (pretrain,)
    if experiment.method == DENSE:
        return (train_kept,)
    if "program" in tags:
        return (*before, train_by_program) if "complete" in tags else (*before, prune_by_program, train_kept)
    if "online" in tags:
        return (*before, train_pruning)
    return (*before, prune_once, train_kept)


def pretrain(work: Work, state: State) -> State:
    """Take the weights of the dense run that this one starts from; run it first where it is not finished."""
    twin = pretraining(work.experiment)
    assert twin is not None
    directory = work.finish(twin, work.dataset)
    model = untrained(work.experiment).to(work.device)
    load_weights(model, directory / WEIGHTS)
    seconds = read_json(directory / RESULT)["seconds"]["train"]
    return replace(state, model=model, seconds={**state.seconds, "pretrain": float(seconds)})


def prune_once(work: Work, state: State) -> State:
    """Choose what stays, or take the masks on disk; the network is then the one to train."""
    work.tell(Progress(work.experiment, "prune", 0, work.experiment.recipe.steps))
    found = _stored(work)
    if found is None:
        start = time.perf_counter()
        dense = copy.deepcopy(state.model)  # the method writes its own zeros, which are not those of a shuffled choice
        masks, network = masks_and_network(work.experiment, work.dataset, work.device, dense)
        found = masks, time.perf_counter() - start
        # What a repair leaves of the weights cannot be told from the masks: it is kept with them.
        repaired = network.state_dict() if method_of(work.experiment).repair is not None else None
        _store(work, *found, repaired)
    masks, seconds = found
    model = state.model or untrained(work.experiment).to(work.device)
    if (work.directory / START).exists():
        load_weights(model, work.directory / START)
    masks.apply_(model)
    return _pruned(state, model, masks, seconds)


def prune_by_program(work: Work, state: State) -> State:
    """Let a program choose what stays: each training that it asks for is an artefact, and not repeated."""
    work.tell(Progress(work.experiment, "prune", 0, work.experiment.recipe.steps))
    model = state.model or untrained(work.experiment).to(work.device)
    found = _stored(work)
    if found is None:
        start = time.perf_counter()
        program = program_of(work.experiment)
        levels = Levels(work)
        masks = program(model, **_given(work, program, levels)).to("cpu")
        found = masks, time.perf_counter() - start
        _store(work, *found, model.state_dict(), trained=_asked(work, program, levels))
    load_weights(model, work.directory / START)
    return _pruned(state, model, *found)


def train_by_program(work: Work, state: State) -> State:
    """Let a program train and prune to the end: what it leaves is the run's network."""
    work.tell(Progress(work.experiment, "prune", 0, work.experiment.recipe.steps))
    model, start = state.model or untrained(work.experiment).to(work.device), time.perf_counter()
    program, levels = program_of(work.experiment), Levels(work)
    masks = program(model, **_given(work, program, levels)).to("cpu")
    assert levels.last is not None and levels.last.trail is not None  # such a program ends with a training
    after = _pruned(state, model, masks, time.perf_counter() - start - levels.last.trail.seconds)
    _store(work, masks, after.seconds["prune"], None, trained=_asked(work, program, levels))
    return replace(after, trail=levels.last.trail, choice=levels.last.choice)


def train_kept(work: Work, state: State) -> State:
    """Train what is left, zeros held."""
    model = state.model or untrained(work.experiment).to(work.device)
    owner = f"{work.experiment.name}/{state.fingerprint}"
    return trained(work, replace(state, model=model), Checkpoint(work.directory / CHECKPOINT, owner))


def train_pruning(work: Work, state: State) -> State:
    """Train while the method prunes."""
    experiment = work.experiment
    model = state.model or untrained(experiment).to(work.device)

    def begin(network: nn.Module) -> Pruner:
        drawn, method = generator(experiment.seed, "method"), method_of(experiment)
        held_out = list(data.in_order(work.dataset.validation, experiment.recipe.batch)) if method.held_out else None
        return Pruner(network, method, held_out, only=_only(experiment, network), generator=drawn)

    checkpoint = Checkpoint(work.directory / CHECKPOINT, f"{experiment.name}/pruning")
    after = trained(work, replace(state, model=model), checkpoint, begin=begin)
    assert after.masks is not None
    _store(work, after.masks, 0.0, None)
    return replace(after, fingerprint=_fingerprint(after.masks))


def masks_for(experiment: Experiment, dataset: Dataset, device: torch.device, model: nn.Module | None = None) -> Masks:
    """Choose what stays of an experiment's network: of the untrained one, or of a trained `model`, which is pruned."""
    return masks_and_network(experiment, dataset, device, model)[0]


def masks_and_network(
    experiment: Experiment, dataset: Dataset, device: torch.device, model: nn.Module | None
) -> tuple[Masks, nn.Module]:
    """Prune; return the masks and the network that was pruned, as the method left it.

    The method looks at un-augmented batches from the head of the training stream.
    """
    network = model or untrained(experiment, scoring=True).to(device)
    network.train(not experiment.score_in_eval)
    size = experiment.score_batch or experiment.recipe.batch
    batches = list(data.batches(dataset.train, size, seed=experiment.seed, stop=experiment.score_batches))
    drawn = generator(experiment.seed, "method")
    only = _only(experiment, network)
    budget = experiment.effective
    masks = prune(network, method_of(experiment), batches, only=only, generator=drawn, effective=budget).to("cpu")
    if experiment.sanity is Sanity.SHUFFLE:
        return shuffle(masks, generator=generator(experiment.seed, "shuffle")), network
    return masks, network


def _given(work: Work, program: Callable[..., Masks], levels: Levels) -> dict[str, Any]:
    """Return what a program asks for by the names of its parameters: trainings, batches, a judge, its clock.

    One that trains by itself has an epoch of batches; others score on the first.
    """
    experiment, examples = work.experiment, work.dataset.train
    size = experiment.score_batch or experiment.recipe.batch
    wanted, given = inspect.signature(program).parameters, dict(experiment.options)
    many = 1 if "train" in wanted else data.steps_in(len(examples), size, epochs=1)
    able = {
        "train": lambda: levels,
        "batches": lambda: list(data.batches(work.dataset.train, size, seed=experiment.seed, stop=many)),
        "generator": lambda: generator(experiment.seed, "method"),
        "examples": lambda: (examples.x, examples.y),
        "epoch": lambda: min(experiment.recipe.steps, data.steps_in(len(examples), experiment.recipe.batch, epochs=1)),
        "evaluate": lambda: partial(_accuracy, work.dataset.validation),
    }
    return {name: make() for name, make in able.items() if name in wanted and name not in given}


@torch.no_grad()
def _accuracy(examples: data.Examples, model: nn.Module) -> float:
    """The fraction of examples that a network names right, for programs that try what it is worth."""
    model.eval()
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in data.in_order(examples, 1000)) / len(examples)


def _only(experiment: Experiment, network: nn.Module) -> list[str] | None:
    return list(prunable(network, biases=True)) if experiment.biases else None


def _pruned(state: State, model: nn.Module, masks: Masks, seconds: float) -> State:
    spent = {**state.seconds, "prune": seconds}
    return replace(state, model=model, masks=masks, fingerprint=_fingerprint(masks), seconds=spent)


def _asked(work: Work, program: Callable[..., Masks], levels: Levels) -> int:
    """Return the training steps of a program: those that it asked for, or where it trains by itself, its own."""
    own = "train" not in inspect.signature(program).parameters
    return int(arguments_of(work.experiment).get("steps", 0)) if own else levels.steps


def _store(work: Work, masks: Masks, seconds: float, weights: Mapping[str, Tensor] | None, *, trained: int = 0) -> None:
    # The facts first: the masks, written last, are what says that the phase is done.
    if weights is not None:
        write_tensors(work.directory / START, weights)
    by_program = {"trained": trained} if trained else {}
    write_json(work.directory / PRUNE, {"fingerprint": _fingerprint(masks), "seconds": seconds} | by_program)
    masks.save(work.directory / MASKS)


def _stored(work: Work) -> tuple[Masks, float] | None:
    """Read the masks and the seconds they took; None where they have not been chosen yet."""
    path, about = work.directory / MASKS, work.directory / PRUNE
    if not path.exists():
        return None
    if not about.exists():
        raise damaged(path, f"{PRUNE}, which belongs to it, is missing")
    facts = read_json(about)
    try:
        masks = Masks.load(path)
        masks.check(untrained(work.experiment))
    except SecateurError as problem:
        raise damaged(path, str(problem)) from None
    if _fingerprint(masks) != facts.get("fingerprint"):
        raise damaged(path, f"it is not the one that {PRUNE} speaks of")
    seconds = facts.get("seconds")
    return masks, float(seconds) if isinstance(seconds, int | float) else 0.0


def _fingerprint(masks: Masks) -> str:
    return f"{hash(masks):016x}"
