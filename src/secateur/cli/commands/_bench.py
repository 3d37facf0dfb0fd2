"""`secateur bench`: how fast one network runs dense, masked and sparse on this machine."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import SecateurError, nearest
from secateur.cli.networks import shape
from secateur.cli.text import Parser, Table, UsageError, console, values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from secateur.masks import Masks

ABOUT = """\
Times one network dense (stock torch, and the best dense product found), masked, sparsified and with the
fused training step, side by side in one run: a training step, inference of 1 and of 128 samples, memory.

  secateur bench lenet-300-100 --sparsity 98%
  secateur bench mlp-784-4096-4096-10 --density 0.02 --batch 128
  secateur bench runs/NAME                         the network and the masks of a run
  secateur bench package.module:factory --input 3x32x32      one of your own: its module is imported

A model named without a run is pruned by --method first. Inputs are random numbers of the right shape: how
long a step takes does not depend on what they are."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("bench", help="time a network dense and sparse", description=ABOUT)
    parser.add_argument("what", metavar="MODEL_OR_RUN", help="a name, package.module:factory, or a run's directory")
    parser.add_argument("--method", metavar="NAME", default="snip", help="how a model without a run is pruned")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument(
        "--density", metavar="D", type=values.density, help="fraction kept, as 0.05 or 5%% [default: 0.05]"
    )
    how_much.add_argument("--sparsity", metavar="S", type=values.sparsity, dest="density", help="fraction cut, as 95%%")
    parser.add_argument(
        "--input", metavar="SHAPE", type=shape, help="of one example, as 3x32x32, for a network of your own"
    )
    parser.add_argument("--batch", metavar="N", type=values.positive, default=100, help="samples per training step")
    parser.add_argument("--seconds", metavar="S", type=values.seconds, default=3.0, help="time for each comparison")
    parser.add_argument("--threads", metavar="N", type=values.positive, help="threads [default: torch's own number]")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too, which may take minutes")
    parser.add_argument("--seed", metavar="N", type=values.natural, default=0, help="of weights and inputs")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    import torch

    from secateur.cli.runs import busy
    from secateur.sparse import bench

    if args.threads:
        torch.set_num_threads(args.threads)
    model, masks, inputs, targets = _of_run(args) if Path(args.what).is_dir() else _of_model(args)
    with busy(f"timing {args.what}", quiet=args.json):
        rows = bench(model, masks, inputs, targets, seconds=args.seconds, compiled=args.compile)
    about = {
        "format": "secateur.bench/1",
        "what": args.what,
        "density": masks.density,
        "kept": masks.kept,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
    }
    if args.json:
        console.emit(about | {"rows": [asdict(row) for row in rows]})
    else:
        _print(about, rows)
    return 0


def _of_run(args: argparse.Namespace) -> tuple[nn.Module, Masks, Tensor, Tensor]:
    from secateur.lab import data
    from secateur.lab.experiment import Experiment, untrained
    from secateur.lab.repeat import read_json
    from secateur.lab.running import EXPERIMENT, MASKS
    from secateur.masks import Masks

    path = Path(args.what)
    if not (path / EXPERIMENT).exists():
        raise UsageError(f"{path} is not a run's directory: it holds no {EXPERIMENT}.")
    if not (path / MASKS).exists():
        raise SecateurError(f"{path} has no masks: the run is dense, or has not been pruned yet.")
    experiment = Experiment.from_json(read_json(path / EXPERIMENT))
    masks = Masks.load(path / MASKS)
    model, source = untrained(experiment), data.catalogue()[experiment.data]
    masks.apply_(model)
    return model, masks, *_batch(args, source.shape, source.num_classes)


def _of_model(args: argparse.Namespace) -> tuple[nn.Module, Masks, Tensor, Tensor]:
    import torch

    from secateur._catalogue import called, catalogue
    from secateur.lab import models
    from secateur.pruning import prune

    known, name = catalogue(), called(args.method)
    if name not in known:
        raise UsageError(f"there is no method {args.method!r}.{nearest(args.method, known)}")
    if known[name].tags & {"online", "program", "emerging"}:
        raise UsageError(
            f"--method {args.method} prunes no untrained network: name one that does, or a run that used it."
        )
    generator = torch.Generator().manual_seed(args.seed)
    if ":" in args.what:
        model, sizes, classes = _own(args)
    else:
        sizes, classes = _sizes_of(args.what)
        try:
            model = models.build(args.what, generator=generator, in_shape=sizes, num_classes=classes)
        except SecateurError as problem:
            raise UsageError(str(problem).replace("`name`", "the network", 1)) from None
    inputs, targets = _batch(args, sizes, classes)
    method = known[name].factory(args.density or 0.05)
    return model, prune(model, method, [(inputs, targets)], generator=generator), inputs, targets


def _own(args: argparse.Namespace) -> tuple[nn.Module, tuple[int, ...], int]:
    """Make a network of one's own; return it, the shape of one input, and how many numbers it answers with."""
    import torch

    from secateur.cli.networks import made_by

    if args.input is None or args.input[0] != "float":
        raise UsageError("--input says the shape of one example, as 3x224x224, for a network of your own.")
    sizes: tuple[int, ...] = args.input[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model = made_by(args.what)
    try:
        with torch.no_grad():
            found = model(torch.zeros(2, *sizes))
    except Exception as problem:  # whatever a user's forward raises
        raise SecateurError(f"{args.what} does not take --input: {type(problem).__name__}: {problem}") from problem
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        raise SecateurError(f"{args.what} must answer with [batch, classes]: a training step is timed with a loss.")
    return model, sizes, found.shape[1]


def _batch(args: argparse.Namespace, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(args.seed)
    inputs = torch.randn(args.batch, *shape, generator=generator)
    return inputs, torch.randint(classes, (args.batch,), generator=generator)


def _sizes_of(name: str) -> tuple[tuple[int, ...], int]:
    """Shape of one input and number of classes of a network by name: the paper's, or what `mlp-…` says."""
    from secateur.lab import models

    known = models.catalogue()
    if name in known:
        return known[name].in_shape, 10
    sizes = [int(word) for word in name.split("-")[1:] if word.isdigit()]
    return ((sizes[0],), sizes[-1]) if name.startswith("mlp-") and sizes else ((3, 32, 32), 10)


def _print(about: dict[str, Any], rows: list[Any]) -> None:
    from secateur.masks import density_text

    stock = rows[0].step
    title = f"{about['what']}, {density_text(about['density'])}, batch {about['batch']}, threads {about['threads']}"
    table = Table(title, ("", ">step", ">speed-up", ">1 sample", ">128 samples", ">parameters", ">training memory", ""))
    for row in rows:
        speed = f"{stock / row.step:.1f}×" if row.step else None
        times = (console.short(row.step), speed, console.short(row.latency_1), console.short(row.latency_128))
        sizes = (console.size(n) if n else None for n in (row.parameter_bytes, row.training_bytes))
        table.add(row.name, *times, *sizes, row.note)
    console.show(table)
