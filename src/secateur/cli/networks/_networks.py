"""How networks are found, made and filled by what a command line says of them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import SecateurError, nearest
from secateur.cli.text import UsageError, console, values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from secateur.lab.experiment import Experiment

SHRUNK = "shrunk.safetensors"  # what shrink leaves in a run's directory

#: What the help of each such command says of a network.
NAMES = """\
A network is a model of the lab by name (lenet-5-caffe, mlp-784-300-10), a run's directory or its name under
--runs, or package.module:factory: a function without arguments, or a class, that makes an nn.Module.
Naming a factory imports that module, and so runs its code."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network, and what it is called with.

    Attributes:
        name: as it was asked for.
        model: with its values.
        inputs: an example.
        run: the directory of its run, if it has one.
    """

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    run: Path | None = None


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `3x224x224` or `int:128` as the kind and shape of one example.

    >>> shape("3x32x32"), shape("int:128")
    (('float', (3, 32, 32)), ('int', (128,)))
    """
    kind, sizes = text.split(":", 1) if ":" in text else ("float", text)
    words = re.split("[x×,]", sizes.lower()) if sizes else []
    if kind not in ("float", "int") or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise ArgumentTypeError(f"expected the shape of one example, as 3x224x224 or int:128, got {text!r}.")
    return kind, tuple(int(word) for word in words)


def add_network(parser: Any, *, batch: int) -> None:
    """Declare the options that say what a network is called with, usually with so many examples."""
    group = parser.add_argument_group("the example that it is called with")
    group.add_argument(
        "--input",
        metavar="SHAPE",
        type=shape,
        action="append",
        help="of one example, without the batch: 3x224x224, or int:128 for integers; again for a second argument",
    )
    group.add_argument(
        "--data", metavar="NAME", help="of a run on data of your own: package.module:factory once more, whose code runs"
    )
    group.add_argument("--batch", metavar="N", type=values.positive, default=batch, help="examples at once")
    group.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where runs are kept")
    group.add_argument("--threads", metavar="N", type=values.positive, help="threads [default: torch's own number]")
    group.add_argument("--seed", metavar="N", type=values.natural, default=0, help="of weights and inputs")
    group.add_argument("--json", action="store_true", help="write one JSON document to stdout")


def network(args: Any, name: str) -> Network:
    """Find a network by what it is called on the command line.

    Raises:
        UsageError: there is no such network, or the shape of its input is not known.
        SecateurError: it cannot be made.
    """
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    directory = run_of(args, name)
    if directory is not None:
        return _of_run(args, directory)
    generator = torch.Generator().manual_seed(args.seed)
    if ":" in name:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            model = made_by(name)
        return Network(name, model, _inputs(args, args.input, generator))
    model, in_shape = _of_lab(name, args, generator)
    return Network(name, model, _inputs(args, args.input or [("float", in_shape)], generator))


def run_of(args: Any, name: str) -> Path | None:
    """Return the directory of a run, by its path or by its name under --runs; None where it is no run."""
    from secateur.lab.running import EXPERIMENT

    for path in (Path(name), args.runs / name):
        if (path / EXPERIMENT).is_file():
            return path
    if Path(name).is_dir():
        raise UsageError(f"{console.shown(name)} is not a run's directory: it holds no {EXPERIMENT}.")
    return None


def _of_run(args: Any, directory: Path) -> Network:
    import torch

    from secateur.lab import data
    from secateur.lab.experiment import untrained
    from secateur.lab.repeat import read_tensors
    from secateur.lab.running import WEIGHTS, experiment_in

    experiment = experiment_in(directory)
    if not (directory / WEIGHTS).is_file():
        raise SecateurError(f"{directory} has no weights yet: it was not run to its end.")
    _admit(args, experiment, directory)
    model, source = untrained(experiment), data.catalogue()[experiment.data]
    tensors, _ = read_tensors(directory / WEIGHTS)
    fill(model, tensors, directory / WEIGHTS)
    generator = torch.Generator().manual_seed(args.seed)
    return Network(str(directory), model, _inputs(args, args.input or [("float", source.shape)], generator), directory)


def _admit(args: Any, experiment: Experiment, directory: Path) -> None:
    """Import what a run has of somebody's own, if this command line names it as the one that made the run did."""
    from secateur.lab import data, models
    from secateur.lab.own import NotThereError, is_own

    own = ("model", "a network", experiment.model, models.admit), ("data", "data", experiment.data, data.admit)
    for option, what, name, admit in own:
        given = getattr(args, option, None)
        if given is not None and given != name:
            raise UsageError(f"--{option} {given}: {directory} is a run of {name}.")
        if not is_own(name):
            continue
        if given is None:
            raise UsageError(
                f"{directory} is a run of {what} of your own: add --{option} {name}. What a file names is not "
                "imported, for that runs its code."
            )
        try:
            admit(name)
        except NotThereError as problem:
            raise UsageError(str(problem)) from None


def fill(model: nn.Module, tensors: Any, path: Path) -> None:
    """Write weights into a model, all of them or none.

    Raises:
        SecateurError: they are of another model; it names the first that does not fit.
    """
    own = model.state_dict()
    for name in (*tensors, *own):
        if name not in own or name not in tensors:
            there, where = ("the file", "the model") if name in tensors else ("the model", "the file")
            raise SecateurError(
                f"{console.shown(path)} holds weights of another model: {there} has {name!r}, and {where} has not."
                f"{nearest(name, own if name in tensors else tensors)}"
            )
        if own[name].shape != tensors[name].shape:
            raise SecateurError(
                f"{console.shown(path)} holds weights of another model: {name!r} has the shape "
                f"{tuple(tensors[name].shape)}, and {tuple(own[name].shape)} in the model."
            )
    model.load_state_dict(dict(tensors))


def made_by(name: str) -> nn.Module:
    """Call a factory, `package.module:factory`, found from the current directory as well."""
    from torch import nn

    from secateur.lab.own import NotThereError, imported

    try:
        made = imported(name)
    except NotThereError as problem:
        raise UsageError(str(problem)) from None
    try:
        model = made() if callable(made) and not isinstance(made, nn.Module) else made
    except Exception as problem:
        raise SecateurError(f"{name} raised {type(problem).__name__}: {problem}") from problem
    if not isinstance(model, nn.Module):
        raise SecateurError(f"{name} must make an nn.Module, got a {type(model).__name__}.")
    return model


def _of_lab(name: str, args: Any, generator: Any) -> tuple[nn.Module, tuple[int, ...]]:
    from secateur.lab import models

    known = models.catalogue()
    sizes = [int(word) for word in name.split("-")[1:] if word.isdigit()]
    in_shape = (
        known[name].in_shape if name in known else (sizes[0],) if name.startswith("mlp-") and sizes else (3, 32, 32)
    )
    if args.input:
        in_shape = args.input[0][1]
    classes = 10 if name in known or not sizes else sizes[-1]
    try:
        return models.build(name, generator=generator, in_shape=in_shape, num_classes=classes), in_shape
    except SecateurError as problem:
        runs = [path.name for path in args.runs.iterdir()] if args.runs.is_dir() else []
        hint = nearest(name, runs)
        said = str(problem).replace("`name`", "the network", 1)
        raise UsageError(f"{said}{hint} A network of your own is written package.module:factory.") from None


def _inputs(args: Any, shapes: Sequence[tuple[str, tuple[int, ...]]] | None, generator: Any) -> tuple[Tensor, ...]:
    import torch

    if not shapes:
        raise UsageError("--input says the shape of one example, as 3x224x224, for a network of your own.")
    return tuple(
        torch.randint(2, (args.batch, *sizes), generator=generator)
        if kind == "int"
        else torch.randn(args.batch, *sizes, generator=generator)
        for kind, sizes in shapes
    )
