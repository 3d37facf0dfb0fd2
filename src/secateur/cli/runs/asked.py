"""What a command line asks for, as experiments; and how they are run under its eyes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from secateur._base.errors import SecateurError, told
from secateur._catalogue import called, catalogue
from secateur.cli.runs._progress import bars
from secateur.cli.text import UsageError, console
from secateur.lab import data, models
from secateur.lab.cluster import on_ray
from secateur.lab.comparing import Comparison, Runner, compare, grid, needed_first, one_by_one, processes
from secateur.lab.experiment import (
    DENSE,
    PAPER_PROTOCOL,
    Engine,
    Experiment,
    Recipe,
    check,
    member,
    recipe,
    shortened,
    takes_density,
    untrained,
)
from secateur.lab.models import Initial
from secateur.lab.own import is_own

_DENSITY = 0.05
_SMALL = 300_000  # parameters


def experiments(args: argparse.Namespace) -> list[Experiment]:
    """Return what `secateur run` was asked for: every method with every seed.

    Raises:
        UsageError: something in it does not exist or makes no sense; nothing was computed.
    """
    methods = [called(name) for name in args.compare or [args.method]]
    seeds = range(args.seed, args.seed + (args.seeds or 1))
    try:
        admit(args)
        bases = [_base(args, methods, density) for density in args.density or [None]]
        wanted = list(dict.fromkeys(one for base in bases for one in grid(base, methods, seeds)))
        if args.pretrain == 0:
            wanted = [replace(one, pretrain=None) for one in wanted]
        for experiment in (one for one in wanted if one.seed == args.seed):  # the others differ in nothing else
            check(experiment)
    except SecateurError as problem:
        raise UsageError(as_options(str(problem))) from None
    if args.on == "local":
        check_device(args.device)
    return wanted


def run_all(wanted: Sequence[Experiment], args: argparse.Namespace) -> Comparison:
    """Run experiments with progress bars, where the options of `run.add_places` say."""
    runner = runner_of(args, wanted)
    require_folder(args.runs)
    with bars(len(wanted) + len(needed_first(wanted)), quiet=args.quiet or args.json) as on_progress:
        return compare(
            wanted,
            root=args.runs,
            data_dir=args.data_dir,
            device=args.device,
            save_every=args.save_every,
            runner=runner,
            on_progress=on_progress,
        )


def runner_of(args: argparse.Namespace, wanted: Sequence[Experiment]) -> Runner:
    """Return who runs the experiments, as `--on`, `--address`, `--jobs` and `--threads` say.

    Raises:
        UsageError: they do not go together.
        SecateurError: Ray is not installed.
    """
    if args.on == "ray":
        if args.jobs != 1:
            raise UsageError("--jobs is for --on local: a cluster runs as many at once as it has processors for.")
        return on_ray(address=args.address, threads=args.threads or 1)
    if args.address is not None:
        raise UsageError(f"--address is a cluster's: add --on ray, got --address {args.address} alone.")
    threads = args.threads or (1 if _is_small(wanted[0]) else None)
    return one_by_one(threads=threads) if args.jobs == 1 else processes(args.jobs, threads=threads)


def admit(args: argparse.Namespace) -> None:
    """Import the network and the data that the command line names as one's own; their code runs.

    Raises:
        UsageError: they are to run on a cluster, which does not have them.
        SecateurError: they cannot be imported.
    """
    own = {"--model": is_own(args.model), "--data": is_own(args.data)}
    if any(own.values()) and args.on == "ray":
        raise UsageError(
            f"{next(o for o in own if own[o])} of your own is imported on this machine: leave out --on ray."
        )
    if own["--model"]:
        models.admit(args.model)
    if own["--data"]:
        data.admit(args.data)


def as_options(problem: str) -> str:
    """Say a library's complaint of a parameter in the words of the command line.

    >>> as_options("`name` must be one of lenet-300-100; got 'lenet'.")
    "--model must be one of lenet-300-100; got 'lenet'."
    """
    words = {"name": "--model", "data": "--data", "method": "--method", "recipe": "--recipe", "data_dir": "--data-dir"}
    return re.sub(r"^`(\w+)`", lambda found: words.get(found[1], found[0]), problem)


def require_folder(runs: Path) -> None:
    """Make the folder of the runs, before anything is computed that could not be kept there.

    Raises:
        UsageError: it cannot be made or written, with the way out.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        writable = os.access(runs, os.W_OK | os.X_OK)
    except OSError as problem:
        raise UsageError(f"--runs {console.shown(runs)} cannot be made: {told(problem)}") from None
    if not writable:
        raise UsageError(
            f"--runs {console.shown(runs)} cannot be written. Name another folder, or change its permissions."
        )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe by name, with the length, batch and augmentation asked for."""
    found = recipe(args.recipe or ("demo" if args.data == "digits" else "short"))
    if args.batch:
        found = replace(found, batch=args.batch, name="")
    if args.augment not in (None, found.augment):
        found = replace(found, augment=args.augment, name="")
    return shortened(found, args.steps) if args.steps else found


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        UsageError: with torch's own reason.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as problem:
        why = str(problem).splitlines()[0]
        raise UsageError(f"--device {name!r} is not available here: {why}") from None


def _base(args: argparse.Namespace, methods: Sequence[str], density: float | None) -> Experiment:
    pruning = [method for method in methods if method != DENSE]
    if not pruning and density not in (None, 1.0):
        raise UsageError("dense prunes nothing: leave out --density and --sparsity, or name a --method.")
    known, recipe = catalogue(), recipe_of(args)
    deciding = [name for name in pruning if name in known and not takes_density(known[name].factory)]
    if deciding and deciding == pruning and density is not None:
        raise UsageError(
            f"{deciding[0]} decides itself how much stays: leave out --density and --sparsity, and see its options in "
            f"`secateur methods {deciding[0]}`."
        )
    experiment = Experiment(
        model=args.model,
        data=args.data,
        method=pruning[0] if pruning else DENSE,
        density=(density or _DENSITY) if pruning else 1.0,
        recipe=recipe,
        seed=args.seed,
        options=tuple(args.option),
        score_batch=args.score_batch,
        score_batches=args.score_batches,
        initialiser=member("init", Initial, args.init),
        score_initialiser=member("score_init", Initial, args.score_init) if args.score_init else None,
        engine=Engine(args.engine),
        block=args.block if args.block and pruning else (1, 1),
        bf16=args.bf16,
        pretrain=_pretrain(args, recipe) if pruning else None,
        effective=args.effective and bool(pruning),
    )
    return replace(experiment, **PAPER_PROTOCOL) if args.protocol == "paper" else experiment


def _pretrain(args: argparse.Namespace, recipe: Recipe) -> Recipe | None:
    """Return how the dense network is trained first: as afterwards, or in so many steps; None where nobody says so."""
    if not args.pretrain:
        return None
    return recipe if args.pretrain is True else shortened(recipe, args.pretrain)


def _is_small(experiment: Experiment) -> bool:
    """Networks like LeNet-300-100 win nothing by a second thread, and on a busy machine lose a factor of ten."""
    return sum(parameter.numel() for parameter in untrained(experiment).parameters()) < _SMALL
