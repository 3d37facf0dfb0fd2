"""Table 1: twelve times fewer weights, on MNIST; and what the printed percentages of the large networks come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from papers.han_2015.setting import ALEXNET, LENET_300, TITLES, TRAINED, VGG_16, Layers, counted, dense, pruned

from secateur.lab.paper import Artefact, Cell, Record, lines, markdown

ABOUT = """
Networks are trained, cut below a multiple of each layer's standard deviation, retrained from the survivors' values,
and cut and retrained again. One multiple serves all layers here, so chosen that 8.3 % of the weights stay; the paper
sets one for each layer by hand. The runs are those of the row LWC in Table 1 of [SNIP's page](snip_2019.md), and the
networks those of its Caffe models. AlexNet and VGG-16 need ImageNet, which is not here; what can be checked without it
is whether the printed percentages of their layers come to the printed totals, and they do: see the last table.
"""

PRINTED = {LENET_300: (1.64, 1.59, 22_500), "lenet-5-caffe": (0.80, 0.77, 36_500)}


def cells() -> Iterator[Cell]:
    """Yield each network as trained and as pruned twelve times."""
    for model, recipe in TRAINED:
        before, after, kept = PRINTED[model]
        yield Cell(TITLES[model], "trained", dense(model, recipe), before)
        run = pruned(model, 0.083, first=recipe, after=recipe, rounds=2)
        yield Cell(TITLES[model], "pruned, 12×", run, after, most_kept=kept)


def layout(shown: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out the cells, and the arithmetic."""
    rows = [("", "weights", "kept, by the printed percentages", "printed"), ("---", "--:", "--:", "--:")]
    rows += [_arithmetic("AlexNet", ALEXNET, "6.7 M, 9×"), _arithmetic("VGG-16", VGG_16, "10.3 M, 13×")]
    return f"{lines(shown, records)}\n\n{markdown(rows)}"


def _arithmetic(name: str, layers: Layers, printed: str) -> tuple[str, str, str, str]:
    total, low, high = (number / 1e6 for number in counted(layers))
    return name, f"{total:.1f} M", f"{low:.1f} to {high:.1f} M, {total / high:.1f} to {total / low:.1f}×", printed


ARTEFACT = Artefact("table1", "Table 1: twelve times fewer weights", ABOUT, tuple(cells()), layout, seeds=5)
