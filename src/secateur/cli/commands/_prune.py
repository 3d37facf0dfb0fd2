"""`secateur prune MODEL`: prune a language model from a folder, without labels, and write it to another."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from secateur.axes import Method

ABOUT = """\
Prunes a causal language model in the layout of Hugging Face, block by block, on a text that it is typical
for, and writes it so that `from_pretrained` opens it again. Embeddings and the head stay whole.

  secateur prune opt-125m --method sparsegpt --density 0.5 --calibration wiki.txt --to opt-125m-half
  secateur prune llama --method wanda --pattern 2:4 --calibration ids.npy --to llama-2of4

Needs the package transformers: pip install '.[hf]' in a clone of Secateur."""

METHODS = ("magnitude", "wanda", "sparsegpt", "obc")


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("prune", help="prune a language model from a folder", description=ABOUT)
    parser.add_argument("model", metavar="MODEL", type=Path, help="the model's folder, with its config.json")
    parser.add_argument("--method", choices=METHODS, default="sparsegpt", metavar="NAME", help=", ".join(METHODS))
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--density", metavar="D", type=values.density, help="fraction kept [default: 0.5]")
    how_much.add_argument("--sparsity", metavar="S", type=values.sparsity, dest="density", help="fraction cut, as 50%%")
    how_much.add_argument("--pattern", metavar="N:M", type=values.pattern, help="N of every M inputs kept, as 2:4")
    parser.add_argument("--calibration", metavar="FILE", type=Path, required=True, help="text, or token ids as .npy")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the new folder")
    parser.add_argument("--samples", metavar="N", type=values.positive, default=128, help="windows of the text")
    parser.add_argument("--length", metavar="N", type=values.positive, help="tokens of each [default: 2048, or less]")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser, stopped="Nothing was written.")


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import busy
    from secateur.lab import language
    from secateur.pruning import blocks, prune

    if not args.model.is_dir():
        raise UsageError(f"there is no folder at {console.shown(args.model)}.")
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise UsageError(f"{console.shown(args.to)} is there already: name a folder that is new or empty.")
    model, tokenizer = language.opened(args.model), language.tokenizer_in(args.model)
    config: Any = model.config
    longest = getattr(config, "max_position_embeddings", None) or 2048
    length = args.length or min(2048, longest)
    if length > longest:
        raise UsageError(f"--length {length} is more than the {longest} positions that the model has.")
    ids = language.token_ids(args.calibration, tokenizer)
    rows = language.windows(ids, length=length, count=args.samples, vocabulary=config.vocab_size)
    names, begin = blocks.found_in(model), time.perf_counter()
    with busy(f"pruning {len(names)} blocks", quiet=args.json):
        masks = prune(model, _method(args), language.batches_of(rows), blocks=names)
    language.written(model, masks, args.to, tokenizer=tokenizer)
    told = {
        "format": "secateur.prune/1",
        "method": args.method,
        "kept": masks.kept,
        "prunable": masks.numel,
        "density": masks.density,
        "blocks": len(names),
        "windows": len(rows),
        "length": length,
        "seconds": round(time.perf_counter() - begin, 1),
        "folder": str(args.to),
    }
    if args.json:
        console.emit(told)
    else:
        _print(told)
    return 0


def _method(args: argparse.Namespace) -> Method:
    from secateur import methods
    from secateur.axes import scope

    pattern: tuple[int, int] | None = args.pattern
    density = pattern[0] / pattern[1] if pattern else args.density or 0.5
    fixed = None if pattern is None else scope.n_of_m(*pattern)
    made: dict[str, Callable[[], Method]] = {
        "magnitude": lambda: methods.magnitude(density, scope=fixed or scope.layerwise()),
        "wanda": lambda: methods.wanda(density, scope=fixed),
        "sparsegpt": lambda: methods.sparsegpt(density, pattern=pattern),
        "obc": lambda: methods.obc(density, pattern=pattern),
    }
    return made[args.method]()


def _print(told: dict[str, Any]) -> None:
    from secateur.masks import density_text

    what = f"{told['kept']:,} of {told['prunable']:,} weights of {told['blocks']} blocks"
    console.say(f"{what}: {density_text(told['density'])}")
    console.say(f"by {told['method']} on {told['windows']} windows of {told['length']} tokens")
    console.say(f"written to {console.shown(told['folder'])} in {told['seconds']} s")
