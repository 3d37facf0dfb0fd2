"""`secateur compress`, `unpack` and `inspect`: really small files of what a run or a checkpoint holds."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.archives._weights import weights
from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from secateur.archive import Report, Values
    from secateur.masks import Masks

_OUT = "model.sct"  # what compress leaves in a run's directory
_WEIGHTS, _MASKS = "weights.safetensors", "masks.safetensors"

COMPRESS = """\
Writes the weights of a run, or of a safetensors file, as a really small file that secateur.load opens: which
weights survive by a model of rows and columns, their values bit for bit, or fewer bits of them.

  secateur compress runs/NAME                      bit for bit
  secateur compress runs/NAME --bits 5             32 values for each weight tensor, by k-means
  secateur compress weights.safetensors --int8 --out small.sct

Of a file without masks, what is zero is pruned. Biases, batch norm and all else stay bit for bit."""


def add(commands: Any) -> None:
    """Declare the subcommands."""
    parser: Parser = commands.add_parser("compress", help="write a model as a really small file", description=COMPRESS)
    parser.add_argument("what", metavar="CHECKPOINT_OR_RUN", help="safetensors weights, or a run's directory")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--bits", metavar="N", type=values.positive, help="at most 2^N values that weights share: lossy")
    ways.add_argument("--int8", action="store_true", help="eight bits, and a scale for each row: lossy")
    ways.add_argument("--bf16", action="store_true", help="values rounded to bfloat16: lossy")
    parser.add_argument("--density-init", action="store_true", help="k-means begins at quantiles, not at equal steps")
    parser.add_argument("--huffman", action="store_true", help="gaps and Huffman codes alone, as Deep Compression")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"where to [default: {_OUT} in the run, or beside]")
    _usual(parser, _compress)
    parser = commands.add_parser("unpack", help="write what `compress` wrote as plain safetensors weights")
    parser.add_argument("what", metavar="FILE", type=Path, help="what `secateur compress` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="where to write the weights")
    _usual(parser, _unpack)
    parser = commands.add_parser("inspect", help="say how many bytes of such a file go where")
    parser.add_argument("what", metavar="FILE", type=Path, help="what `secateur compress` wrote")
    _usual(parser, _inspect)


def _usual(parser: Parser, execute: Any) -> None:
    parser.add_argument("--json", action="store_true", help="write one JSON document and nothing else")
    parser.set_defaults(execute=execute, parser=parser)


def _compress(args: argparse.Namespace) -> int:
    from secateur.archive import CODERS, SUPPORTS, compress, gaps, huffman

    path = Path(args.what)
    folder = path if path.is_dir() else None
    file = path / _WEIGHTS if folder else path
    if not file.is_file():
        raise UsageError(f"there is no file of weights at {console.shown(file)}.")
    out = args.out or (folder / _OUT if folder else file.with_suffix(".sct"))
    if not out.parent.is_dir():
        raise UsageError(f"--out: there is no directory {console.shown(out.parent)}.")
    way = _way(args)
    model, masks = _found(file, folder, lossy=way.lossy)
    report = compress(
        model,
        masks,
        out,
        values=way,
        supports=(gaps(5),) if args.huffman else SUPPORTS,
        coders=(huffman,) if args.huffman else CODERS,
    )
    _tell(args, report)
    if not args.json:
        console.say(f"Written to {console.shown(out)}: secateur.load(path, the same model, fresh).")
    return 0


def _way(args: argparse.Namespace) -> Values:
    """What becomes of the values."""
    import torch

    from secateur.archive import density, exact, int8, linear, rounded, shared

    if args.density_init and args.bits is None:
        raise UsageError("--density-init goes with --bits.")
    if args.bits is not None:
        return shared(args.bits, density if args.density_init else linear)
    return int8() if args.int8 else rounded(torch.bfloat16) if args.bf16 else exact


def _found(file: Path, folder: Path | None, *, lossy: bool) -> tuple[nn.Module, Masks | None]:
    """A module that holds the weights, and what of them survives: the run's masks, or what is not zero."""
    from secateur.masks import Masks

    state = weights(file)
    if folder is not None and (folder / _MASKS).is_file():
        return _bare(state), Masks.load(folder / _MASKS)
    alive = {name: tensor != 0 for name, tensor in state.items() if tensor.dim() > 1 and tensor.is_floating_point()}
    found = {name: mask for name, mask in alive.items() if lossy or not bool(mask.all())}
    return _bare(state), Masks(found) if found else None


def _bare(state: dict[str, Tensor]) -> nn.Module:
    """A module whose state is this."""
    from torch import nn

    root = nn.Module()
    for name, tensor in state.items():
        place, *rest = root, *name.split(".")
        for step in rest[:-1]:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        if tensor.is_floating_point():
            place.register_parameter(rest[-1], nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(rest[-1], tensor)
    return root


def _unpack(args: argparse.Namespace) -> int:
    from safetensors.torch import save

    from secateur._base.files import sealed_tensors, write_whole
    from secateur.archive import tensors_of

    if not args.out.parent.is_dir():
        raise UsageError(f"--out: there is no directory {console.shown(args.out.parent)}.")
    if not args.what.is_file():
        raise UsageError(f"there is no file at {console.shown(args.what)}.")
    state = {name: tensor.clone() for name, tensor in tensors_of(args.what).items()}  # tied ones are written apart
    write_whole(args.out, sealed_tensors(save(state), {}))
    size = args.out.stat().st_size
    if args.json:
        console.emit({"format": "secateur.unpack/1", "file": str(args.out), "bytes": size, "tensors": len(state)})
    else:
        console.say(f"{len(state)} tensors written to {console.shown(args.out)} ({console.size(size)}).")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from secateur.archive import inspect

    if not args.what.is_file():
        raise UsageError(f"there is no file at {console.shown(args.what)}.")
    _tell(args, inspect(args.what))
    return 0


def _tell(args: argparse.Namespace, report: Report) -> None:
    if not args.json:
        console.say(str(report))
        return
    rows = [asdict(row) | {"shape": list(row.shape), "other_bytes": row.other_bytes} for row in report.tensors]
    said = {name: getattr(report, name) for name in ("kind", "bytes", "header", "dense", "csr", "bound", "ratio")}
    console.emit({"format": "secateur.archive-report/1", "file": str(report.path), **said, "tensors": rows})
