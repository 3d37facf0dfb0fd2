"""The phases of a run: each takes what the one before left, and leaves an artefact by which it is skipped next time.

    Prune → Train                 most methods: choose once, before training
    Train → Prune → Train         those that score a trained network; the first is a dense run of its own, shared by all
                                  experiments that start from it
    Train, pruning meanwhile      those that act on the optimizer's step
    Program → Train               those that own a loop of trainings, each of which is an artefact too

Which of them a run consists of follows from what the catalogue says of its method.
"""

from __future__ import annotations

import copy
import hashlib
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
    dense,
    method_of,
    pretraining,
    program_of,
    tags_of,
    untrained,
)
from secateur.lab.repeat import damaged, generator, read_json, read_tensors, write_json, write_tensors
from secateur.lab.running._checkpoint import Checkpoint
from secateur.lab.running._work import (
    CHECKPOINT,
    LEVEL,
    MASKS,
    PRUNE,
    RESULT,
    START,
    WEIGHTS,
    Progress,
    State,
    Work,
    fit_weights,
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
        return (*before, prune_by_program, train_kept)
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
        masks = program(model, train=_Levels(work), **_given(work, program)).to("cpu")
        found = masks, time.perf_counter() - start
        _store(work, *found, model.state_dict())
    load_weights(model, work.directory / START)
    return _pruned(state, model, *found)


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
    masks = prune(network, method_of(experiment), batches, only=only, generator=drawn).to("cpu")
    if experiment.sanity is Sanity.SHUFFLE:
        return shuffle(masks, generator=generator(experiment.seed, "shuffle")), network
    return masks, network


class _Levels:
    """Trains a network for a program: the present weights, held by the program, for the experiment's recipe.

    The program is called anew when its run goes on. It does the same again, and its trainings, which are known by the
    weights that they start from, are read instead of repeated.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.count = 0

    def __call__(self, model: nn.Module) -> None:
        """Train `model` in place."""
        work, begun = self.work, _fingerprint_of(model.state_dict())
        self.count += 1
        path = work.directory / f"{LEVEL}{self.count}.safetensors"
        checkpoint = Checkpoint(path.with_suffix(".checkpoint"), f"{work.experiment.name}/{self.count}/{begun}")
        if not path.exists() and not self._as_dense(model, begun):
            trained(work, State(model), checkpoint, stage=f"level {self.count}")
            write_tensors(path, model.state_dict(), {"from": begun})
        elif path.exists():
            tensors, about = read_tensors(path)
            if about.get("from") != begun:
                raise damaged(path, f"it was trained from other weights than level {self.count} starts from")
            fit_weights(model, tensors, path)
        checkpoint.path.unlink(missing_ok=True)

    def _as_dense(self, model: nn.Module, begun: str) -> bool:
        """Take the weights of the dense run where that is finished and starts from the same ones."""
        twin = dense(self.work.experiment, seed=self.work.experiment.seed)
        directory = self.work.directory.parent / twin.name
        if not (directory / RESULT).exists() or begun != _fingerprint_of(untrained(twin).state_dict()):
            return False
        load_weights(model, directory / WEIGHTS)
        return True


def _given(work: Work, program: Callable[..., Masks]) -> dict[str, Any]:
    """Return what a program asks for by the names of its parameters besides `train`: batches, a generator, a judge."""
    experiment = work.experiment
    size = experiment.score_batch or experiment.recipe.batch
    able = {
        "batches": lambda: list(data.batches(work.dataset.train, size, seed=experiment.seed, stop=1)),
        "generator": lambda: generator(experiment.seed, "method"),
        "evaluate": lambda: partial(_accuracy, work.dataset.validation),
    }
    wanted = inspect.signature(program).parameters
    return {name: make() for name, make in able.items() if name in wanted}


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


def _store(work: Work, masks: Masks, seconds: float, weights: Mapping[str, Tensor] | None) -> None:
    # The facts first: the masks, written last, are what says that the phase is done.
    if weights is not None:
        write_tensors(work.directory / START, weights)
    write_json(work.directory / PRUNE, {"fingerprint": _fingerprint(masks), "seconds": seconds})
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


def _fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in weights.items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
