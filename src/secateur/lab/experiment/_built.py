"""What an experiment's names stand for: its data, its untrained network, its dense twin; and whether they exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from secateur._base.errors import SecateurError, nearest
from secateur.lab import data, models
from secateur.lab.data import Dataset
from secateur.lab.experiment._engine import Engine, misfit
from secateur.lab.experiment._experiment import DENSE, Experiment, Sanity
from secateur.lab.experiment._method import entry_of, method_of, program_of, tags_of, takes_density
from secateur.lab.models import Initial
from secateur.lab.own import is_own
from secateur.lab.repeat import generator


def check(experiment: Experiment) -> None:
    """Refuse, before anything is computed or written, an experiment whose names or options do not exist.

    Raises:
        SecateurError: naming the field, what is known, and the nearest.
    """
    known = data.catalogue()
    if experiment.data not in known:
        hint = nearest(experiment.data, known)
        raise SecateurError(f"`data` must be one of {', '.join(known)}, got {experiment.data!r}.{hint}")
    _check_augmentation(experiment)
    _check_chain(experiment)
    if experiment.method != DENSE:
        _check_method(experiment)
    elif experiment.options:
        raise SecateurError("`options` are a method's, and dense has none.")
    data.split(1, experiment.validation, experiment.seed)  # refuses what is no fraction
    found = known[experiment.data]
    if is_own(experiment.model) and (experiment.initialiser, experiment.score_initialiser) != (Initial.VS_X, None):
        raise SecateurError("`initialiser` is for networks of the lab: one of your own draws its weights itself.")
    models.check(experiment.model, in_shape=found.shape, num_classes=found.num_classes)


def _check_augmentation(experiment: Experiment) -> None:
    sources = data.catalogue()
    before = experiment.pretrain
    recipes = [experiment.recipe, before.recipe if isinstance(before, Experiment) else before or experiment.recipe]
    if any(one.augment for one in recipes) and sources[experiment.data].augment is None:
        having = ", ".join(name for name, source in sources.items() if source.augment is not None)
        raise SecateurError(
            f"`augment` must be False for {experiment.data}, for which no augmentation is known; got True. Take the "
            f"recipe with augment=False (--no-augment), or one of {having}."
        )


def _check_chain(experiment: Experiment) -> None:
    """Refuse to go on from a run of another network or on other data."""
    before = pretraining(experiment)
    if not isinstance(experiment.pretrain, Experiment) or before is None:
        return
    check(before)
    for field in ("model", "data", "validation", "examples", "initialiser", "random_labels"):
        own, other = getattr(experiment, field), getattr(before, field)
        if own != other:
            raise SecateurError(f"`pretrain` is a run with another {field}, {other!r}, where this one has {own!r}.")


def _check_method(experiment: Experiment) -> None:
    name, tags = experiment.method, tags_of(experiment)
    if not takes_density(entry_of(experiment).factory) and experiment.density != 1:
        raise SecateurError(
            f"`density` must be 1 for {name}, which decides itself how much stays, got {experiment.density:g}."
        )
    program = "program" in tags
    if program:
        program_of(experiment)
    repairs = not program and method_of(experiment).repair is not None
    why = None
    if "online" in tags:
        why = f"{name} acts while the network trains"
        if experiment.engine is Engine.SPARSE:
            raise misfit(f"{why}, and the sparse engine trains what has been pruned")
    elif program:
        why = f"{name} trains the network itself"
    elif pretraining(experiment) is not None:
        why = f"{name} prunes a network that has been trained"
    elif repairs:
        why = f"{name} changes the weights that stay"
    _refuse_another_network(experiment, why)
    if program or "online" in tags:
        _refuse_scoring(experiment, str(why), program=program)


def _refuse_another_network(experiment: Experiment, why: str | None) -> None:
    """Refuse to train other weights than the ones that were pruned, where those are more than a draw."""
    given = {
        "redraw": experiment.redraw,
        "score_initialiser": experiment.score_initialiser is not None,
        "sanity": experiment.sanity is Sanity.REINIT,
    }
    for field, wanted in given.items():
        if wanted and why is not None:
            raise SecateurError(f"`{field}` trains other weights than the ones that were scored, but {why}.")


def _refuse_scoring(experiment: Experiment, why: str, *, program: bool) -> None:
    given = {
        "score_batch": experiment.score_batch != 0,
        "score_batches": experiment.score_batches != 1,
        "score_in_eval": experiment.score_in_eval,
        "sanity": bool(experiment.sanity) if program else experiment.sanity is Sanity.SHUFFLE,
        "biases": program and experiment.biases,
        "block": program and experiment.blocked,
        "effective": experiment.effective,
    }
    for field, wanted in given.items():
        if wanted:
            raise SecateurError(f"`{field}` is for methods that choose once, from batches of their own, but {why}.")


def load_data(experiment: Experiment, *, data_dir: str | Path | None, device: torch.device | str) -> Dataset:
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


def untrained(experiment: Experiment, *, scoring: bool = False) -> nn.Module:
    """Build the network with its first weights, a pure function of the seed, on the CPU.

    Args:
        experiment: says model, data set, initialiser and seed.
        scoring: the network that the method looks at, which is another one under `redraw` or
            `score_initialiser`, and for the check "reinit".
    """
    other = scoring and not scored_is_trained(experiment)
    source = _source_of(experiment)
    return models.build(
        experiment.model,
        in_shape=source.shape,
        num_classes=source.num_classes,
        init=(experiment.score_initialiser if scoring else None) or experiment.initialiser,
        generator=generator(experiment.seed, "scored weights" if other else "weights"),
    )


def _source_of(experiment: Experiment) -> data.Source:
    known = data.catalogue()
    if experiment.data not in known and is_own(experiment.data):
        raise SecateurError(
            f"{experiment.data!r} are data of one's own, and nobody but a command line that names them (--data "
            f"{experiment.data}) has them imported: that runs their code."
        )
    if experiment.data not in known:
        raise SecateurError(f"`data` must be one of {', '.join(known)}, got {experiment.data!r}.")
    return known[experiment.data]


def skeleton(experiment: Experiment) -> nn.Module:
    """Build the network on the meta device: its layers, without memory and without values.

    Raises:
        SecateurError: its model or its data set is not known.
    """
    source = _source_of(experiment)
    return models.skeleton(experiment.model, in_shape=source.shape, num_classes=source.num_classes)


def scored_is_trained(experiment: Experiment) -> bool:
    """Tell whether the weights that the method looks at are those that are trained afterwards."""
    anew = experiment.redraw or experiment.sanity is Sanity.REINIT
    return not anew and experiment.score_initialiser is None


def dense(base: Experiment, *, seed: int) -> Experiment:
    """Return the run without pruning that belongs beside `base`: everything but the pruning is the same.

    Where the sparse engine is asked for it gets `auto`: nothing is sparse in a dense run.
    """
    return Experiment(
        model=base.model,
        data=base.data,
        method=DENSE,
        density=1.0,
        recipe=base.recipe,
        seed=seed,
        initialiser=base.initialiser,
        random_labels=base.random_labels,
        validation=base.validation,
        examples=base.examples,
        bf16=base.bf16,
        engine=Engine.AUTO if base.engine is Engine.SPARSE else base.engine,
    )


def pretraining(experiment: Experiment) -> Experiment | None:
    """Return the run whose weights are pruned here, None where the untrained network is pruned: dense, or as it says.

    It is an experiment like any other: it has its own directory, and all that start from it share it.
    """
    if experiment.pretrain is None:
        return None
    if isinstance(experiment.pretrain, Experiment):
        return replace(experiment.pretrain, seed=experiment.seed)
    return replace(dense(experiment, seed=experiment.seed), recipe=experiment.pretrain)


def suited(experiment: Experiment) -> Experiment:
    """Return the experiment as its method is meant to be run: what it asks for stands in it, and so in its name.

    A method that decides itself how much stays gets density 1; one that scores a trained network is given the training
    of it, by the same recipe, where the experiment names none.

    Raises:
        SecateurError: there is no such method.
    """
    if not takes_density(entry_of(experiment).factory):
        experiment = replace(experiment, density=1.0)
    if "trained" in tags_of(experiment) and experiment.pretrain is None:
        experiment = replace(experiment, pretrain=experiment.recipe)
    return experiment
