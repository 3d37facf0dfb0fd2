"""Tables 1 to 3: LeNets pruned, quantised and coded, and what each stage takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from papers.deep_compression.sizes import Size, size_of

from secateur.lab.experiment import Experiment, Ramp, Recipe
from secateur.lab.paper import Artefact, Cell, Gathered, canvas, lines, save_figure
from secateur.lab.repeat import read_tensors
from secateur.lab.running import WEIGHTS

ABOUT = """
Deep Compression prunes a trained network, lets the weights of each layer share few values, trains those, and codes
codes and gaps by Huffman. Here the pruned network is that of [Han's Table 1](han_2015.md), and the values are trained
for 3,000 steps under `methods.trained_quantisation`: 6 bits in LeNet-300-100 as in the paper, 5 bits in all layers of
LeNet-5 (the paper has 8 in its convolutions). The picture counts bytes by the paper's own stages, with gaps of 5 bits,
fillers, codebooks, the tables of Huffman's codes, and biases in float32. The paper prints 40× and 39×.
"""

#: The runs of LWC in Han's Table 1 here, and the training of the values.
TRAINED_300 = Recipe(steps=12_000, rate=Ramp(0.1, 12_000, warmup=300), evaluate_every=2_000)
TRAINED_5 = replace(TRAINED_300, rate=Ramp(0.03, 12_000, warmup=300))
TUNED = Recipe(steps=3_000, rate=Ramp(0.003, 3_000), evaluate_every=1_000)

#: Network, its training, bits of a code, the paper's error before and after.
ROWS = (("lenet-300-100", TRAINED_300, 6, 1.64, 1.58), ("lenet-5-caffe", TRAINED_5, 5, 0.80, 0.74))
TITLES = {"lenet-300-100": "LeNet-300-100", "lenet-5-caffe": "LeNet-5"}


def cells() -> Iterator[Cell]:
    """Yield each network as trained, pruned and quantised; each run begins where the one before ended."""
    for model, recipe, bits, before, after in ROWS:
        dense = Experiment(model, "mnist", "dense", 1.0, recipe, validation=0.0)
        lwc = replace(dense, method="iterative_lwc", density=0.083, pretrain=recipe)
        lwc = lwc.with_options({"trained": True, "rounds": 2})
        shared = replace(dense, method="trained_quantisation", recipe=TUNED, pretrain=lwc).with_options({"bits": bits})
        yield Cell(TITLES[model], "trained", dense, before)
        yield Cell(TITLES[model], "pruned", lwc, after)
        yield Cell(TITLES[model], f"pruned, {bits} bits", shared, after)


def sizes(gathered: Gathered) -> dict[str, Size]:
    """Count the bytes of each quantised network whose run is there."""
    found = {}
    for cell in gathered.cells:
        results = gathered.results.get(cell.name, ())
        if results and cell.column.endswith("bits"):
            tensors, _ = read_tensors(results[0].directory / WEIGHTS)
            weights = [tensor for tensor in tensors.values() if tensor.dim() > 1]
            others = sum(tensor.numel() for tensor in tensors.values() if tensor.dim() < 2)
            found[cell.row] = size_of(weights, others, code_bits=dict(cell.experiment.options)["bits"])  # type: ignore[arg-type]
    return found


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw the bytes of each stage, and say them."""
    found = sizes(gathered)
    if not found:
        return []
    figure, panels = canvas(1, len(found), width=4.2 * len(found), height=3.2)
    for panel, (name, size) in zip(panels, found.items(), strict=True):
        stages = {"float32": size.dense, "pruned": size.pruned, "shared": size.quantised, "Huffman": size.coded}
        panel.bar(list(stages), [count / 1000 for count in stages.values()])
        panel.set_yscale("log")
        panel.set_ylabel("kB")
        panel.set_title(name, fontsize="medium")
    save_figure(figure, folder / "sizes.png")
    return [("sizes.png", "Bytes, seed 0. " + " ".join(_said(name, size) for name, size in found.items()))]


def _said(name: str, size: Size) -> str:
    stages = ((size.pruned, "pruned"), (size.quantised, "quantised"), (size.coded, "coded"))
    told = ", ".join(f"{what} {count:,.0f} ({size.dense / count:.1f}×)" for count, what in stages)
    return f"{name}: {size.dense:,.0f} dense, {told}."


ARTEFACT = Artefact("table1", "Tables 1 to 3: LeNets compressed", ABOUT, tuple(cells()), lines, seeds=5, draw=draw)
