"""A process of its own that runs an experiment on a cluster that it begins, and prints who could have reached it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateur.lab.cluster import _cluster, on_ray
from secateur.lab.comparing import compare
from secateur.lab.experiment import Constant, Experiment, Recipe

SHORT = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(4, Constant(0.05), batch=50))


def family(process: int) -> set[int]:
    """A process and all that it has started, and they."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening() -> set[str]:
    """The addresses, in the kernel's hexadecimal, at which this process and its family listen."""
    sockets = set()
    for process in family(os.getpid()):
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(descriptor))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].partition(":")[0])
    return found


def main(root: str) -> None:
    seen: dict[str, Any] = {}
    drive = _cluster._drive

    def look(*arguments: Any) -> Iterator[Any]:
        yield from drive(*arguments)
        seen["listening"] = sorted(listening())

    _cluster._drive = look
    found = compare([SHORT], root=root, runner=on_ray())
    left = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    print(json.dumps({**seen, "failures": list(found.failures.values()), "switch": left}))


if __name__ == "__main__":
    main(sys.argv[1])
