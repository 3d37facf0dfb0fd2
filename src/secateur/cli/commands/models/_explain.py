"""`secateur explain`: what became of one channel, and why."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import SecateurError, nearest
from secateur.cli.networks import SHRUNK, run_of
from secateur.cli.text import Parser, UsageError, console

if TYPE_CHECKING:
    from secateur.masks import Masks

ABOUT = """\
Says what became of one channel, and why: its score and its rank, what it is tied to, or what holds it.

  secateur explain small.safetensors channel layer3.conv1:37
  secateur explain runs/NAME channel conv1:3

The file is one that `secateur shrink` or Shrunk.save wrote; of a run it is its shrunk.safetensors. Where a
run has masks alone, it is said how many weights of the channel they keep. Numbers are those before the cut."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("explain", help="why a channel went or stays", description=ABOUT)
    parser.add_argument("path", metavar="RUN_OR_FILE", help="a run, or a file of a shrunk model or of masks")
    parser.add_argument("kind", metavar="channel", choices=("channel",), help="the word channel")
    parser.add_argument("place", metavar="LAYER:INDEX", type=_place, help="as layer3.conv1:37")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def _place(text: str) -> tuple[str, int]:
    name, colon, index = text.rpartition(":")
    if not colon or not name or not (index.isascii() and index.isdigit()):
        raise ArgumentTypeError(f"expected LAYER:INDEX, as layer3.conv1:37, got {text!r}.")
    return name, int(index)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    said = _explained(args)
    name, index = args.place
    if args.json:
        console.emit({"format": "secateur.explain/1", "layer": name, "index": index, "said": said.splitlines()})
    else:
        console.say(said)
    return 0


def _explained(args: argparse.Namespace) -> str:
    from secateur.cli.commands.models._opened import masks_in
    from secateur.lab.running import MASKS
    from secateur.shrinking.files import read

    name, index = args.place
    path, run = Path(args.path), run_of(args, args.path)
    if run is not None:
        path = next((run / each for each in (SHRUNK, MASKS) if (run / each).is_file()), run)
        if path == run:
            raise SecateurError(f"{run} has neither masks nor {SHRUNK}; `secateur shrink {run}` writes that.")
    elif not path.exists():
        raise UsageError(f"there is nothing at {console.shown(path)}.")
    masks = masks_in(path)
    if masks is not None:
        return _by_masks(masks, name, index)
    content = read(path)
    if content.manifest is not None:
        return content.manifest.why(name, index)
    if content.masks is None:
        raise SecateurError(f"{console.shown(path)} holds a model that was neither shrunk nor masked.")
    return _by_masks(content.masks, name, index)


def _by_masks(masks: Masks, name: str, index: int) -> str:
    """How many weights of a row the masks keep, and how that ranks."""
    full = next((each for each in (name, f"{name}.weight") if each in masks), None)
    if full is None:
        known = [*masks, *(each.rpartition(".")[0] for each in masks)]
        raise SecateurError(f"the masks do not speak of {name!r}.{nearest(name, known)}")
    rows = masks[full].flatten(1).sum(1).tolist() if masks[full].dim() > 1 else masks[full].int().tolist()
    if index >= len(rows):
        raise SecateurError(f"{full} has {len(rows)} rows, got {index}: they are counted from 0.")
    total = masks[full][index].numel()
    rank = 1 + sum(row > rows[index] for row in rows)
    fate = "keeps none of its" if not rows[index] else f"keeps {rows[index]:,} of its"
    return f"{full} {index} {fate} {total:,} weights: rank {rank} of {len(rows)} rows"
