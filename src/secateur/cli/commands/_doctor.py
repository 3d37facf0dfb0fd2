"""`secateur doctor`: versions, kernels, threads, devices, data, and why where something is missing."""

from __future__ import annotations

import argparse
import os
from typing import Any

from secateur.cli.text import Parser, Table, console

ABOUT = """\
Says what Secateur found on this machine: versions, whether the compiled kernels run and with which
instruction set (and if not, why), threads, devices, what is remembered of layers timed here, and which data sets
are where."""

_PACKAGES = {
    "core": ("torch", "numpy", "safetensors"),
    "lab": ("rich", "matplotlib", "pillow"),
}


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("doctor", help="versions, kernels, devices and data found", description=ABOUT)
    parser.add_argument("--data-dir", metavar="DIR", help="look for the data sets here too")
    parser.add_argument("--measure", action="store_true", help="forget the layers timed here: they are timed anew")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    if args.measure:
        from secateur.sparse.timing import forget

        console.remark(f"forgot {forget()} timed layers: the next sparsify times them anew")
    report = examine(args.data_dir)
    if args.json:
        console.emit(report)
        return 0
    table = Table("", ("what", "found"))
    for what, found in _lines(report):
        table.add(what, found)
    console.show(table)
    return 0


def examine(data_dir: str | None = None) -> dict[str, Any]:
    """Look at everything; return JSON-ready data."""
    import torch

    from secateur.lab.running import cpu_name, machine, package_version

    return {
        "versions": {
            "secateur": package_version("secateur"),
            "python": machine()["python"],
            **{name: package_version(name) for group in _PACKAGES.values() for name in group},
        },
        "machine": {"system": machine()["system"], "cpu": cpu_name(), "cores": os.cpu_count()},
        "native": _native(),
        "threads": torch.get_num_threads(),
        "timed": _timed(),
        "devices": _devices(),
        "data": _data(data_dir),
    }


def _native() -> dict[str, Any]:
    from secateur._base import door

    return {
        "active": door.native is not None,
        "isa": door.isa(),
        "bfloat16": None if door.native is None else door.native.half_set(),
        "why_not": door.why_not,
    }


def _timed() -> dict[str, Any]:
    """What is remembered of layers timed on this machine at this number of threads."""
    from secateur.sparse.timing import verdicts_here

    found = list(verdicts_here().values())
    return {
        "layers": len(found),
        "sparse": sum(verdict.second_is_faster for verdict in found),
        "oldest": min((verdict.day for verdict in found), default=None),
        "spread": max((verdict.spread for verdict in found), default=None),
    }


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _data(data_dir: str | None) -> dict[str, str | None]:
    """For each data set where it was found, or None."""
    from secateur.lab import data

    return data.whereabouts(data_dir)


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    missing = {group: [name for name in names if not report["versions"][name]] for group, names in _PACKAGES.items()}
    versions = [f"{name} {version}" for name, version in report["versions"].items() if version]
    native = report["native"]
    lines = [
        ("versions", ", ".join(versions)),
        ("machine", "{system}, {cpu}, {cores} cores".format(**report["machine"])),
        (
            "kernels",
            "compiled, {isa}; bfloat16 through {bfloat16}".format(**native)
            if native["active"]
            else f"torch fallback: {native['why_not']}",
        ),
        ("threads", str(report["threads"])),
        ("timed layers", _timed_line(report["timed"])),
        *(("device", device) for device in report["devices"]),
        *((f"data {name}", place or "not found") for name, place in report["data"].items()),
    ]
    if missing["lab"]:
        lines.append(("missing", f"{', '.join(missing['lab'])}: pip install '.[lab]' in a clone of Secateur"))
    return lines


def _timed_line(timed: dict[str, Any]) -> str:
    if not timed["layers"]:
        return "none yet: sparsify times them"
    return (
        f"{timed['layers']}, {timed['sparse']} of them faster sparse, since {timed['oldest']}, "
        f"ratios within {timed['spread']:.0%}"
    )
