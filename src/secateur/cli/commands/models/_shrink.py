"""`secateur shrink`: a network really smaller, with a proof, into a file."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import nearest
from secateur.cli.archives import weights
from secateur.cli.networks import NAMES, SHRUNK, Network, add_network, fill, network, run_of
from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from secateur.axes import Method
    from secateur.masks import Masks
    from secateur.shrinking import Shrunk

ABOUT = f"""\
Takes whole units out of a trained network (neurons, filters, channels, heads), proves that the smaller one
computes what the masked one does, and writes it into a file that secateur.load opens.

  secateur shrink runs/NAME --keep 50% --of macs
  secateur shrink weights.safetensors --model my_package.models:resnet18 --input 3x224x224 --keep 50% --of ms
  secateur shrink runs/NAME                        what its masks, or its zeros, leave dead

Units are ranked by the L1 norm of the weights that make them, in each group, or by a --method that ranks
filters (nisp, apoz, taylor, fpgm, ...). Those that look at data are shown 512 training examples of the run.

{NAMES}"""

_EXAMPLES, _BATCH = 512, 128  # what a method is shown
_SCATTERED = 0.9  # of the weights: with fewer, their masks go into the file as well
OF = ("units", "params", "macs", "bytes", "memory", "ms")


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("shrink", help="make a network really smaller", description=ABOUT)
    parser.add_argument("what", metavar="CHECKPOINT_OR_RUN", help="safetensors weights, a run, or a network")
    parser.add_argument(
        "--model", metavar="NAME", help="whose weights these are: a model's name or package.module:factory"
    )
    parser.add_argument(
        "--keep",
        metavar="DENSITY",
        type=keep,
        action="append",
        help="how much stays, as 50%% or 0.5, or params=50%%; the latter may be repeated, and all hold",
    )
    parser.add_argument("--of", metavar="WHAT", choices=OF, help=f"of what: {', '.join(OF)} [default: units]")
    parser.add_argument(
        "--only", metavar="GLOB", action="append", help="whose units may go, as 'layer3.*'; again for more"
    )
    parser.add_argument("--multiples", metavar="N", type=values.positive, default=1, help="widths are multiples of N")
    parser.add_argument("--minimum", metavar="N", type=values.positive, default=1, help="units that stay in each group")
    parser.add_argument("--method", metavar="NAME", help="what ranks the units, as nisp: see secateur methods")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help=f"where to write it [default: {SHRUNK} in the run, or beside]"
    )
    parser.add_argument("--timed", action="store_true", help="measure before and after, in turns")
    add_network(parser, batch=2)
    parser.set_defaults(execute=execute, parser=parser)


def keep(text: str) -> tuple[str | None, float]:
    """Read `50%` or `macs=50%`.

    >>> keep("50%"), keep("macs=0.4")
    ((None, 0.5), ('macs', 0.4))
    """
    kind, equals, density = text.rpartition("=")
    if equals and kind not in OF:
        raise ArgumentTypeError(
            f"expected a density such as 50%, or WHAT=50% of {', '.join(OF)}, got {text!r}.{nearest(kind, OF)}"
        )
    return kind or None, values.density(density)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import busy
    from secateur.masks import Masks
    from secateur.shrinking import save, shrink

    budgets = _budgets(args)
    found = opened(args)
    out = args.out or _beside(args, found)
    if not out.parent.is_dir():
        raise UsageError(f"--out: there is no directory {console.shown(out.parent)}.")
    with busy(f"shrinking {found.name}", quiet=args.json):
        if args.method is not None:
            method, seen = _method(args, budgets), _batches(found)
            made = shrink(found.model, method, found.inputs, batches=seen, only=args.only, timed=args.timed)
        elif budgets:
            choice = {"only": args.only, "multiples": args.multiples, "minimum": args.minimum}
            made = shrink(found.model, budgets, found.inputs, timed=args.timed, **choice)
        else:
            made = shrink(found.model, _zeros(found), found.inputs, timed=args.timed)
    zeros = Masks.from_zeros(made.model)
    save(made, zeros if zeros.density < _SCATTERED else None, out)
    if args.json:
        console.emit(_to_json(made, found, out))
    else:
        console.say(str(made.certificate))
        for group in made.manifest.groups:
            console.say(f"  {group}")
        console.say(
            f"Written to {out} ({console.size(out.stat().st_size)}): secateur.load(path, the same model, fresh)."
        )
    return 0


def _method(args: argparse.Namespace, budgets: dict[str, float]) -> Method:
    """The method by its name, with the density that --keep says."""
    from secateur._catalogue import catalogue
    from secateur.lab.experiment import takes_density

    known = {entry.name: entry for entry in catalogue().values() if takes_density(entry.factory)}
    entry = known.get(args.method)
    if entry is None:
        raise UsageError(f"--method is none of those with a density, got {args.method!r}.{nearest(args.method, known)}")
    if set(budgets) != {"units"} or args.multiples > 1 or args.minimum > 1:
        raise UsageError(f"--method {args.method} goes with one --keep of units, and chooses among them itself.")
    try:
        return entry.factory(budgets["units"])
    except TypeError as problem:
        raise UsageError(f"--method {args.method} wants more than a density: {problem}.") from None


def _batches(found: Network) -> list[Any] | None:
    """Training examples of a run, in batches; None where there is no run to say which data."""
    if found.run is None:
        return None
    from secateur.lab import data
    from secateur.lab.running import experiment_in

    examples = data.first(data.load(experiment_in(found.run).data), _EXAMPLES).train
    return list(data.in_order(examples, _BATCH))


def _zeros(found: Network) -> Masks:
    from secateur.masks import Masks

    masks = Masks.from_zeros(found.model)
    if masks.kept == masks.numel:
        raise UsageError(
            f"--keep says how much stays: no weight of {found.name} is zero, so that nothing goes by itself."
        )
    return masks


def _budgets(args: argparse.Namespace) -> dict[str, float]:
    """The densities that were asked for, by what they are of."""
    found: dict[str, float] = {}
    for kind, density in args.keep or ():
        name = kind or args.of or "units"
        if kind and args.of:
            raise UsageError(f"--of {args.of} says of what --keep {density:g} is, and {kind}={density:g} does itself.")
        if name in found:
            raise UsageError(f"--keep says twice how much of {name} stays.")
        found[name] = density
    if not found and (args.of or args.only or args.method or args.multiples > 1 or args.minimum > 1):
        raise UsageError(
            "--of, --only, --method, --multiples and --minimum go with --keep: without it, what is zero already goes."
        )
    return found


def opened(args: argparse.Namespace) -> Network:
    """Open the network: of a run, by name, or weights from a file in a model by name."""
    path = Path(args.what)
    if args.model is None:
        if path.is_file():
            raise UsageError("--model says whose weights these are: a model's name or package.module:factory.")
        if run_of(args, args.what) is None and (path.suffix or "/" in args.what) and ":" not in args.what:
            raise UsageError(f"there is nothing at {console.shown(path)}.")
        return network(args, args.what)
    if run_of(args, args.what) is not None:
        return network(args, args.what)
    if not path.is_file():
        raise UsageError(f"there is no file of weights at {console.shown(path)}.")
    found = network(args, args.model)
    fill(found.model, weights(path), path)
    return Network(args.what, found.model, found.inputs)


def _beside(args: argparse.Namespace, found: Network) -> Path:
    if found.run is not None:
        return found.run / SHRUNK
    if Path(args.what).is_file():
        return Path(args.what).with_suffix(f".{SHRUNK}")
    return Path(SHRUNK)


def _to_json(made: Shrunk, found: Network, out: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from secateur.cli.commands.models._cost import to_json

    certificate = made.certificate
    return {
        "format": "secateur.shrink/1",
        "what": found.name,
        "file": str(out),
        "before": to_json(certificate.before),
        "after": to_json(certificate.after),
        "equal": [asdict(each) | {"dtype": str(each.dtype).removeprefix("torch.")} for each in certificate.comparisons],
        "timing": None if certificate.timing is None else asdict(certificate.timing),
        "stays": list(certificate.refused),
        "not_claimed": list(certificate.not_claimed),
        "groups": [{"group": each.group, "units": each.total, "kept": len(each.kept)} for each in made.manifest.groups],
    }
