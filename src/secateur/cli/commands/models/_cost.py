"""`secateur cost`: what a network costs, per layer and in total."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from secateur.cli.networks import NAMES, add_network, network
from secateur.cli.text import Parser, Table, console, values

if TYPE_CHECKING:
    from secateur.costing import Cost

ABOUT = f"""\
Says what a network costs: parameters, multiplications (MACs) of one forward, bytes, the peak of memory
in a forward, and milliseconds here, per layer and in total.

  secateur cost lenet-5-caffe
  secateur cost runs/NAME --batch 100
  secateur cost my_package.models:resnet18 --input 3x224x224

{NAMES}"""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("cost", help="what a network costs, per layer", description=ABOUT)
    parser.add_argument("what", metavar="MODEL", help="a model's name, a run, or package.module:factory")
    parser.add_argument("--model", metavar="NAME", help="of a run of a network of your own: its factory once more")
    parser.add_argument("--seconds", metavar="S", type=values.seconds, default=1.0, help="time to measure for")
    parser.add_argument("--untimed", action="store_true", help="measure no time")
    add_network(parser, batch=1)
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import busy
    from secateur.costing import cost

    found = network(args, args.what)
    with busy(f"timing {args.what}", quiet=args.json or args.untimed):
        spent = cost(found.model, found.inputs, seconds=None if args.untimed else args.seconds)
    if args.json:
        console.emit(to_json(spent) | {"format": "secateur.cost/1", "what": args.what, "batch": args.batch})
    else:
        _print(args, spent)
    return 0


def to_json(cost: Cost) -> dict[str, Any]:
    """Return a cost as JSON values."""
    content = asdict(cost)
    return content | {"energy": cost.energy(), "layers": [asdict(layer) for layer in cost.layers]}


def _print(args: argparse.Namespace, cost: Cost) -> None:
    import torch

    title = f"{args.what}, batch {args.batch}, threads {torch.get_num_threads()}"
    table = Table(title, ("layer", "kind", ">parameters", ">MACs", ">bytes", ">memory", ">time"))
    for layer in cost.layers:
        numbers = (f"{n:,}" if n else None for n in (layer.params, layer.macs))
        sizes = (console.size(n) if n else None for n in (layer.bytes, layer.memory))
        table.add(layer.name or "(itself)", layer.kind, *numbers, *sizes, console.short(layer.seconds))
    whole = None if cost.latency is None else cost.latency.seconds
    sizes = console.size(cost.bytes), console.size(cost.memory)
    table.add("total", "", f"{cost.params:,}", f"{cost.macs:,}", *sizes, console.short(whole))
    console.show(table)
    if cost.latency is not None:
        console.say(f"One forward: {cost.latency}.")
    console.say("Memory: alive at the worst moment of a forward without gradients, computed; without workspaces.")
    console.say(
        f"Energy on a chip of 2014 (45 nm), an estimate: {cost.energy() * 1e3:.3g} mJ a forward, weights from DRAM."
    )
