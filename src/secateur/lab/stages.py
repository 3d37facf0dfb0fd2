"""The steps before training: build the network of an experiment, choose what is cut, keep the choice."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from secateur._base.errors import SecateurError, nearest
from secateur._catalogue import catalogue, find
from secateur.axes import Method, Moment, invert
from secateur.axes.structure import Structure, blocks
from secateur.lab import data, init, models, seeds
from secateur.lab.data import Dataset
from secateur.lab.experiment import DENSE, Experiment
from secateur.lab.init import Initialiser
from secateur.lab.store import damaged, read_json, write_json
from secateur.masks import Masks, prunable
from secateur.pruning import prune, shuffle
from secateur.selection import check_density

MASKS = "masks.safetensors"
PRUNE = "prune.json"

#: How weights are drawn, by the names of the SNIP paper's Table 3; "vs" is what its authors' code uses.
INITIALISERS: Mapping[str, Initialiser] = MappingProxyType(
    {"vs": init.vs, "vs-x": init.vs_x, "vs-h": init.vs_h, "rn": init.rn, "tn": init.tn}
)

#: The sanity checks of Frankle et al. (arXiv 2009.08576, §4) by name: keep the lowest scores, permute each layer's
#: mask, or draw the surviving weights anew.
SANITY = ("invert", "shuffle", "reinit")


@dataclass(frozen=True)
class Pruned:
    """What the prune stage left: masks (None for a dense run) and the seconds it took when it ran."""

    masks: Masks | None
    seconds: float

    @property
    def fingerprint(self) -> str:
        """A short text that differs when the masks do."""
        return "dense" if self.masks is None else f"{hash(self.masks):016x}"


def check(experiment: Experiment) -> None:
    """Refuse, before anything is computed or written, an experiment whose names or options do not exist.

    Raises:
        SecateurError: naming the field, what is known, and the nearest.
    """
    known = {
        "data": (experiment.data, data.catalogue()),
        "method": (experiment.method, (DENSE, *catalogue())),
        "initialiser": (experiment.initialiser, INITIALISERS),
        "score_initialiser": (experiment.score_initialiser or experiment.initialiser, INITIALISERS),
        "sanity": (experiment.sanity or SANITY[0], SANITY),
    }
    for field, (name, names) in known.items():
        if name not in names:
            raise SecateurError(f"`{field}` must be one of {', '.join(names)}, got {name!r}.{nearest(name, names)}")
    _check_augmentation(experiment)
    if experiment.method != DENSE:
        method_of(experiment)
    elif experiment.options:
        raise SecateurError("`options` are a method's, and dense has none.")
    data.split(1, experiment.validation, experiment.seed)  # refuses what is no fraction
    untrained(experiment)


def _check_augmentation(experiment: Experiment) -> None:
    sources = data.catalogue()
    if experiment.recipe.augment and sources[experiment.data].augment is None:
        having = ", ".join(name for name, source in sources.items() if source.augment is not None)
        raise SecateurError(
            f"`augment` must be False for {experiment.data}, for which no augmentation is known; got True. Take the "
            f"recipe with augment=False (--no-augment), or one of {having}."
        )


def load(experiment: Experiment, *, data_dir: str | Path | None, device: torch.device | str) -> Dataset:
    """Load the data set of an experiment, split by its seed, with its true labels."""
    whole = data.load(
        experiment.data, data_dir=data_dir, seed=experiment.seed, validation=experiment.validation, device=device
    )
    return data.first(whole, experiment.examples) if experiment.examples else whole


def source(experiment: Experiment) -> tuple[str, int, float, int]:
    """Return what decides the data set of an experiment: those that agree in it can share one."""
    return experiment.data, experiment.seed, experiment.validation, experiment.examples


def trained_on(experiment: Experiment, dataset: Dataset) -> Dataset:
    """Return the data set with the labels that the network is trained on."""
    return data.shuffle_labels(dataset, seed=experiment.seed) if experiment.random_labels else dataset


def method_of(experiment: Experiment) -> Method:
    """Build the pruning method of an experiment: its factory, at its density, with its options.

    Raises:
        SecateurError: an option that the factory does not have.
    """
    check_density(experiment.density)
    factory = find(experiment.method).factory
    known = options_of(factory)
    for name, value in experiment.options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise SecateurError(f"the method {experiment.method} has no option {name!r}; {has}.{nearest(name, known)}")
        if not isinstance(value, known[name]) or (isinstance(value, bool) and bool not in known[name]):
            kinds = " or ".join(kind.__name__ for kind in known[name])
            raise SecateurError(f"the option {name} of {experiment.method} must be of type {kinds}, got {value!r}.")
    units = {"structure": _blocks(experiment, factory)} if experiment.blocked else {}
    try:
        built = factory(density=experiment.density, **dict(experiment.options), **units)
        return invert(built) if experiment.sanity == "invert" else built
    except ValueError as problem:
        raise SecateurError(f"the method {experiment.method} refuses its options: {problem}") from None


def _blocks(experiment: Experiment, factory: Callable[..., Method]) -> Structure:
    if "structure" not in inspect.signature(factory).parameters:
        able = ", ".join(n for n, e in catalogue().items() if "structure" in inspect.signature(e.factory).parameters)
        raise SecateurError(
            f"the method {experiment.method} prunes what its paper prunes and takes no `block`, got "
            f"{experiment.block}. Methods that do: {able}."
        )
    return blocks(*experiment.block)


def options_of(factory: Callable[..., Method]) -> dict[str, tuple[type, ...]]:
    """Return the options of a method's factory that a plain value can set, with the types they take.

    >>> options_of(find("force").factory)
    {'rounds': (<class 'int'>,), 'train': (<class 'bool'>,)}
    """
    plain = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,), "None": ()}
    found: dict[str, tuple[type, ...]] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        words = [word.strip() for word in str(parameter.annotation).split("|")]
        if name != "density" and all(word in plain for word in words):
            found[name] = tuple(kind for word in words for kind in plain[word])
    return found


def untrained(experiment: Experiment, *, scoring: bool = False) -> nn.Module:
    """Build the network with its first weights, a pure function of the seed, on the CPU.

    Args:
        experiment: says model, data set, initialiser and seed.
        scoring: the network that the method looks at, which is another one under `redraw` or
            `score_initialiser`, and for the check "reinit".
    """
    anew = experiment.redraw or experiment.sanity == "reinit"
    other = scoring and (anew or bool(experiment.score_initialiser))
    name = (experiment.score_initialiser if scoring else "") or experiment.initialiser
    source = data.catalogue()[experiment.data]
    return models.build(
        experiment.model,
        in_shape=source.shape,
        num_classes=source.num_classes,
        init=INITIALISERS[name],
        generator=seeds.generator(experiment.seed, "scored weights" if other else "weights"),
    )


def masks_for(experiment: Experiment, dataset: Dataset, device: torch.device) -> Masks:
    """Choose what stays: the method looks at un-augmented batches from the head of the training stream."""
    model = untrained(experiment, scoring=True).to(device)
    model.train(not experiment.score_in_eval)
    size = experiment.score_batch or experiment.recipe.batch
    batches = list(data.batches(dataset.train, size, seed=experiment.seed, stop=experiment.score_batches))
    masks = prune(
        model,
        method_of(experiment),
        batches,
        only=list(prunable(model, biases=True)) if experiment.biases else None,
        generator=seeds.generator(experiment.seed, "method"),
    ).to("cpu")
    if experiment.sanity == "shuffle":
        return shuffle(masks, generator=seeds.generator(experiment.seed, "shuffle"))
    return masks


def survivors(experiment: Experiment, masks: Masks | None) -> nn.Module:
    """Build the network to train: first weights, zeros where pruned, the method's repair of the rest."""
    model = untrained(experiment)
    if masks is not None:
        masks.apply_(model)
        repair = method_of(experiment).repair
        if repair is not None:
            moment = Moment(
                0, None, masks.parameters(model), masks, generator=seeds.generator(experiment.seed, "repair")
            )
            repair(model, masks, moment)
            masks.apply_(model)
    return model


def prune_stage(experiment: Experiment, directory: Path, dataset: Dataset, device: torch.device) -> Pruned:
    """Return the run's masks: the ones on disk, or else new ones, which are then on disk."""
    if experiment.method == DENSE:
        return Pruned(None, 0.0)
    if (directory / MASKS).exists():
        return _stored(experiment, directory)
    start = time.perf_counter()
    masks = masks_for(experiment, dataset, device)
    pruned = Pruned(masks, time.perf_counter() - start)
    # The facts first: the masks, written last, are what says that the stage is done.
    write_json(directory / PRUNE, {"fingerprint": pruned.fingerprint, "seconds": pruned.seconds})
    masks.save(directory / MASKS)
    return pruned


def _stored(experiment: Experiment, directory: Path) -> Pruned:
    path = directory / MASKS
    if not (directory / PRUNE).exists():
        raise damaged(path, f"{PRUNE}, which belongs to it, is missing")
    facts = read_json(directory / PRUNE)
    try:
        masks = Masks.load(path)
        masks.check(untrained(experiment))
    except SecateurError as problem:
        raise damaged(path, str(problem)) from None
    pruned = Pruned(masks, _seconds(facts))
    if pruned.fingerprint != facts.get("fingerprint"):
        raise damaged(path, f"it is not the one that {PRUNE} speaks of")
    return pruned


def _seconds(facts: dict[str, Any]) -> float:
    value = facts.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0
