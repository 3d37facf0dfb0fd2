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
    from secateur.lab.language import PrunedFolder

ABOUT = """\
Prunes a causal language model in the layout of Hugging Face, block by block, on a text that it is typical
for, and writes it so that `from_pretrained` opens it again. Embeddings and the head stay whole. One block
is in memory at a time; what was interrupted goes on where it was when the command is given again.

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
    parser.add_argument(
        "--in-memory", action="store_true", help="open the whole model, for files that are no safetensors"
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser, stopped="Give the command again to go on.")


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.lab import language

    if not args.model.is_dir():
        raise UsageError(f"there is no folder at {console.shown(args.model)}.")
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise UsageError(f"{console.shown(args.to)} is there already: name a folder that is new or empty.")
    config: Any = language.config_in(args.model)
    longest = getattr(config, "max_position_embeddings", None) or 2048
    length = args.length or min(2048, longest)
    if length > longest:
        raise UsageError(f"--length {length} is more than the {longest} positions that the model has.")
    ids = language.token_ids(args.calibration, language.tokenizer_in(args.model))
    rows = language.windows(ids, length=length, count=args.samples, vocabulary=config.vocab_size)
    begin = time.perf_counter()
    found = (_in_memory if args.in_memory else _on_disk)(args, language.batches_of(rows))
    told = {
        "format": "secateur.prune/1",
        "method": args.method,
        "kept": found.kept,
        "prunable": found.prunable,
        "density": found.density,
        "blocks": found.blocks,
        "resumed_at": found.resumed_at,
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


def _on_disk(args: argparse.Namespace, batches: list[Any]) -> PrunedFolder:
    from secateur.cli.runs import busy
    from secateur.lab import language

    with busy("reading the model", quiet=args.json) as say:

        def watch(number: int, count: int) -> None:
            say(f"pruning block {number + 1} of {count}")

        return language.prune_folder(args.model, _method(args), batches, args.to, watch=watch)


def _in_memory(args: argparse.Namespace, batches: list[Any]) -> PrunedFolder:
    from secateur.cli.runs import busy
    from secateur.lab import language
    from secateur.pruning import blocks, prune

    model, tokenizer = language.opened(args.model), language.tokenizer_in(args.model)
    names = blocks.found_in(model)
    with busy(f"pruning {len(names)} blocks", quiet=args.json):
        masks = prune(model, _method(args), batches, blocks=names)
    language.written(model, masks, args.to, tokenizer=tokenizer)
    return language.PrunedFolder(args.to, len(names), masks.kept, masks.numel)


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
    if told["resumed_at"]:
        console.say(f"went on at block {told['resumed_at'] + 1}")
    console.say(f"by {told['method']} on {told['windows']} windows of {told['length']} tokens")
    console.say(f"written to {console.shown(told['folder'])} in {told['seconds']} s")
