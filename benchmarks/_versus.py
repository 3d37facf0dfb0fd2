"""Compare two builds of Secateur by one benchmark: their own processes run in turns, the medians stand side by side.

    python benchmarks/_versus.py OLD NEW --rounds 5 -- sparse_training.py --seconds 2

OLD and NEW are checkouts, each with its `.venv` (`make setup`): `git worktree add OLD COMMIT`. Every figure of the
benchmark's --json is compared; NEW/OLD above 1 is slower where the figure is a time, faster where it is a rate.
Figures that do not touch Secateur ("stock", "oneDNN", …) show how far the machine itself drifted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

NAMES = ("net", "name", "layer", "batch", "density", "network", "candidate", "size", "threads")
WORTH = 0.03  # figures that differ by less than this are counted, not listed


def figures(found: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in what a benchmark wrote, by a path made of what names it."""
    if isinstance(found, dict):
        label = " ".join(str(found[key]) for key in NAMES if key in found)
        for key, value in found.items():
            if key not in NAMES:
                yield from figures(value, "/".join(filter(None, (path, label, str(key)))))
    elif isinstance(found, list):
        for value in found:
            yield from figures(value, path)
    elif isinstance(found, float):
        yield path, found


def once(checkout: Path, script: str, options: list[str]) -> dict[str, float]:
    """Run the benchmark in that checkout, with that checkout's own build."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [checkout / ".venv/bin/python", checkout / "benchmarks" / script, *options, "--json", out]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        return dict(figures(json.loads(out.read_text(encoding="utf-8"))))


def compare(old: Path, new: Path, script: str, options: list[str], rounds: int) -> dict[str, list[float]]:
    """Return NEW/OLD of each figure in each round; who goes first changes from round to round."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        order = (old, new) if turn % 2 == 0 else (new, old)
        found = {checkout: once(checkout, script, options) for checkout in order}
        for path, value in found[new].items():
            before = found[old].get(path, 0.0)
            if before:
                ratios[path].append(value / before)
    return ratios


def show(ratios: dict[str, list[float]]) -> None:
    medians = {path: statistics.median(found) for path, found in ratios.items()}
    far = {path: middle for path, middle in medians.items() if abs(middle - 1) > WORTH}
    print(f"{len(medians)} figures, {len(far)} of them off by more than {WORTH:.0%}; median of all "
          f"{statistics.median(medians.values()):.3f}")  # fmt: skip
    for path, middle in sorted(far.items(), key=lambda item: -item[1]):
        print(f"  {middle:.3f}  ({min(ratios[path]):.3f} to {max(ratios[path]):.3f})  {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("script", help="a file of benchmarks/")
    parser.add_argument("options", nargs="*", help="its own options, after --")
    args = parser.parse_args()
    show(compare(args.old.absolute(), args.new.absolute(), args.script, args.options, args.rounds))


if __name__ == "__main__":
    main()
