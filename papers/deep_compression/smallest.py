"""Forty times smaller by the paper's stages, and as small as soft weight sharing and smaller by ours, as real files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from papers.deep_compression.table1 import TRAINED_5, TRAINED_300, TUNED

import secateur as sc
from secateur import archive
from secateur.archive import Report
from secateur.lab.experiment import Experiment, Ramp, Recipe, untrained
from secateur.lab.paper import Artefact, Cell, Gathered, canvas, lines, save_figure
from secateur.lab.repeat import read_tensors
from secateur.lab.running import MASKS, WEIGHTS, Result

ABOUT = """
What a network takes as a file: each is pruned, shares few values in each layer, which are trained for 3,000 steps, and
is written by [`compress`](../archive.md). Everything is counted: header, biases, codebooks, tables. "By the paper's
stages" is LWC in two rounds, then gaps of 5 bits and Huffman's codes alone. "By ours" is GraNet in one training, then
the default coders. LeNet-5 is the one with a ReLU behind each convolution. Beside the second kind stand the smallest
files that were published for these networks, soft weight sharing's (Ullrich, Meeds and Welling, arXiv 1702.04008,
Table 1): 64 times at 1.94 %, and 162 times at 0.97 %. One seed has been run so far. LeNet-5 by the paper's stages,
which is to be 39 times smaller at 0.8 % or less, waits for its runs, 27,000 steps in all.
"""

LONG_300 = Recipe(steps=24_000, rate=Ramp(0.1, 24_000, warmup=300), evaluate_every=4_000)
RETRAINED_5 = Recipe(steps=6_000, rate=Ramp(0.03, 6_000, warmup=300), evaluate_every=2_000)


@dataclass(frozen=True)
class Way:
    """How a network becomes small, and how small it must be.

    Args:
        row, column: of its cell.
        model: a name of the lab.
        method: what prunes.
        density: how much stays.
        recipe: of each training of what is pruned, but that of the values.
        first: that of the dense network, where that is trained before.
        bits: of an index into the values.
        error: what was published, in per cent.
        times: how many times smaller than dense float32 it was.
    """

    row: str
    column: str
    model: str
    method: str
    density: float
    recipe: Recipe
    bits: int
    error: float
    times: float
    first: Recipe | None = None

    @property
    def pruned(self) -> Experiment:
        """The pruned network."""
        run = Experiment(self.model, "mnist", self.method, self.density, self.recipe, validation=0.0)
        if self.first is None:
            return run
        return replace(run, pretrain=self.first).with_options({"trained": True, "rounds": 2})

    @property
    def shared(self) -> Experiment:
        """The network whose values have been trained."""
        run = replace(self.pruned, method="trained_quantisation", density=1.0, recipe=TUNED, options=())
        return replace(run, pretrain=self.pruned).with_options({"bits": self.bits})


WAYS = (
    Way(
        "LeNet-300-100", "paper's stages", "lenet-300-100", "iterative_lwc", 0.06, TRAINED_300, 5, 1.58, 40, TRAINED_300
    ),
    Way("LeNet-300-100", "ours", "lenet-300-100", "granet", 0.03, LONG_300, 4, 1.94, 64),
    Way("LeNet-5", "paper's stages", "lenet-5-caffe-relu", "iterative_lwc", 0.06, RETRAINED_5, 5, 0.74, 39, TRAINED_5),
    Way("LeNet-5", "ours", "lenet-5-caffe-relu", "granet", 0.014, TRAINED_5, 4, 0.97, 162),
)


def cells() -> Iterator[Cell]:
    """Yield each network as pruned, and with shared values."""
    for way in WAYS:
        yield Cell(way.row, f"{way.column}, pruned", way.pruned)
        yield Cell(way.row, f"{way.column}, {way.bits} bits", way.shared, way.error, points=0.05)


def written(way: Way, result: Result, path: Path) -> Report:
    """Write the archive of a finished run."""
    model = untrained(result.experiment)
    tensors, _ = read_tensors(result.directory / WEIGHTS)
    model.load_state_dict(tensors)
    masks = sc.Masks.load(result.directory / MASKS)
    if way.column == "ours":
        return archive.compress(model, masks, path)
    return archive.compress(model, masks, path, supports=(archive.gaps(5),), coders=(archive.huffman,))


def reports(gathered: Gathered) -> dict[Way, list[Report]]:
    """The sizes of all files whose runs are there."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            name = f"{way.row} · {way.column}, {way.bits} bits"
            if results := gathered.results.get(name, ()):
                found[way] = [written(way, result, Path(folder, "small")) for result in results]
    return found


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw how many times smaller each is, and say it."""
    found = reports(gathered)
    if not found:
        return []
    figure, (panel,) = canvas(1, 1, width=6.4, height=3.2)
    names = [f"{way.row}\n{way.column}" for way in found]
    panel.bar(names, [sum(one.ratio for one in sizes) / len(sizes) for sizes in found.values()], label="ours")
    panel.scatter(names, [way.times for way in found], marker="_", s=900, color="black", label="published")
    panel.set_ylabel("times smaller")
    panel.legend(fontsize="small")
    save_figure(figure, folder / "smallest.png")
    return [("smallest.png", " ".join(_said(way, sizes) for way, sizes in found.items()))]


def _said(way: Way, sizes: Sequence[Report]) -> str:
    each = ", ".join(f"{one.bytes:,}" for one in sizes)
    times = min(one.ratio for one in sizes)
    return (
        f"{way.row}, {way.column}: {sizes[0].dense:,} bytes in float32, {each} as a file, one number for each seed; at "
        f"least {times:.1f} times smaller, published {way.times:g}; {max(one.over for one in sizes):.1%} above the "
        f"entropy bound at most."
    )


ARTEFACT = Artefact("smallest", "Really small files", ABOUT, tuple(cells()), lines, seeds=3, draw=draw)
