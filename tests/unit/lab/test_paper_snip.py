"""papers/snip_2019: every cell can be run, and the numbers beside ours are those that arXiv 1810.02340 prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paper_cases import record
from secateur.lab import data
from secateur.lab.experiment import Adam, Constant, Sanity, Sgd, Stairs
from secateur.lab.paper import (
    Artefact,
    Cell,
    Gathered,
    Length,
    Paper,
    check_first,
    illustrate,
    load,
    order,
)

ROOT = Path(__file__).resolve().parents[3]
NAMES = {"table1", "figure1", "table2", "table3", "figure2", "figure3", "figure4"}  # of the paper itself

# Table 1: sparsity and error of SNIP, and the dense reference.
TABLE_1 = {
    "LeNet-300-100, 95 %": 1.6,
    "LeNet-300-100, 98 %": 2.4,
    "LeNet-5-Caffe with ReLU, 98 %": 0.8,
    "LeNet-5-Caffe with ReLU, 99 %": 1.1,
    "LeNet-5-Caffe, 98 %": 0.8,
    "LeNet-5-Caffe, 99 %": 1.1,
}
TABLE_1_DENSE = {"LeNet-300-100, dense": 1.7, "LeNet-5-Caffe with ReLU, dense": 0.9, "LeNet-5-Caffe, dense": 0.9}
# Table 2: model, sparsity in per cent, dense error, sparse error.
TABLE_2 = {
    "AlexNet-s": (90, 14.12, 14.99),
    "AlexNet-b": (90, 13.92, 14.50),
    "VGG-C": (95, 6.82, 7.27),
    "VGG-D": (95, 6.76, 7.09),
    "VGG-like": (97, 8.26, 8.00),
    "WRN-16-8": (95, 6.21, 6.63),
    "WRN-16-10": (95, 5.91, 6.43),
    "WRN-22-8": (95, 6.14, 5.85),
    "LSTM-s": (95, 1.88, 1.57),
    "LSTM-b": (95, 1.15, 1.35),
    "GRU-s": (95, 1.87, 2.41),
    "GRU-b": (95, 1.71, 1.52),
}
# Table 3: errors at 90 % under each initialiser of the scored weights.
TABLE_3 = {
    "LeNet-300-100": {"RN": 1.90, "TN": 1.96, "VS-X": 1.91, "VS-H": 1.88},
    "LeNet-5-Caffe": {"RN": 0.89, "TN": 0.87, "VS-X": 0.88, "VS-H": 0.85},
    "LeNet-5-Caffe with ReLU": {"RN": 0.89, "TN": 0.87, "VS-X": 0.88, "VS-H": 0.85},
    "LSTM-s": {"RN": 2.93, "TN": 3.03, "VS-X": 1.48, "VS-H": 1.47},
    "GRU-s": {"RN": 47.61, "TN": 46.48, "VS-X": 1.80, "VS-H": 1.80},
}


@pytest.fixture(scope="module")
def snip() -> Paper:
    return load("snip_2019", ROOT)


def test_every_table_and_figure_is_there(snip: Paper) -> None:
    assert set(snip.artefacts) >= NAMES
    assert snip.folder == ROOT / "papers" / "snip_2019"


def test_every_cell_can_be_run(snip: Paper) -> None:
    for artefact in snip.artefacts.values():
        check_first(artefact.cells, Length(1, quick=True))
        assert artefact.title and artefact.about.strip()
        assert artefact.cells or artefact.draw is not None
        once = order(artefact.cells, Length(2))
        assert len({one.name for one in once}) == len(once) == 2 * len(artefact.cells), artefact.name


def own_rows(snip: Paper) -> list[Cell]:
    return [cell for cell in snip.find("table1").cells if not cell.column.startswith("trained first")]


def test_table_1(snip: Paper) -> None:
    printed = {}
    for cell in own_rows(snip):
        if "shifted" not in cell.column:  # which is beyond the paper
            printed.setdefault(cell.row, set()).add(cell.paper)
        else:
            assert cell.paper is None and cell.paper_change is None
        sparsity = 0.0 if "dense" in cell.row else float(cell.row.partition(", ")[2].removesuffix(" %"))
        assert cell.experiment.density == pytest.approx(1 - sparsity / 100)
        assert cell.experiment.data == "mnist" and (cell.experiment.method == "dense") == ("dense" in cell.row)
        assert cell.experiment.biases == cell.experiment.redraw == cell.experiment.score_in_eval
        assert cell.experiment.biases == cell.column.startswith("as published")
    assert printed == {row: {error} for row, error in (TABLE_1 | TABLE_1_DENSE).items()}


def test_table_1_has_each_number_under_both_protocols_and_recipes(snip: Paper) -> None:
    columns = {
        f"{protocol}, {recipe}"
        for protocol in ("as published", "same weights")
        for recipe in ("literal", "best", "shifted")
    }
    for row in TABLE_1:
        wanted = {column for column in columns if "ReLU" not in row or column.endswith("literal")}
        assert {cell.column for cell in snip.find("table1").cells if cell.row == row} == wanted


def test_each_number_of_table_1_is_counted_once_and_has_its_dense_twin(snip: Paper) -> None:
    cells = own_rows(snip)
    counted = [cell.row for cell in cells if cell.counts and cell.paper is not None]
    once = {"LeNet-300-100, 95 %", "LeNet-300-100, 98 %", "LeNet-300-100, dense"}
    assert sorted(counted) == sorted(once | {row for row in (TABLE_1 | TABLE_1_DENSE) if "ReLU" in row})
    known = {cell.name: cell for cell in cells}
    changes = {}
    for cell in cells:
        if cell.experiment.method == "snip":
            twin = known[cell.dense].experiment
            same = replace(
                cell.experiment, method="dense", density=1.0, biases=False, redraw=False, score_in_eval=False
            )
            assert twin == same  # the same recipe, data and network
            changes.setdefault(cell.row, set()).add(cell.paper_change)
    # Δ as the issue of the paper's headline has it: −0.1 and +0.7, −0.1 and +0.2.
    assert {row: found - {None} for row, found in changes.items()} == {
        "LeNet-300-100, 95 %": {-0.1},
        "LeNet-300-100, 98 %": {0.7},
        "LeNet-5-Caffe with ReLU, 98 %": {-0.1},
        "LeNet-5-Caffe with ReLU, 99 %": {0.2},
        "LeNet-5-Caffe, 98 %": {-0.1},
        "LeNet-5-Caffe, 99 %": {0.2},
    }


def test_images_are_moved_in_the_shifted_runs_alone_dense_ones_among_them(snip: Paper) -> None:
    found = {(cell.row, cell.column): cell.experiment for cell in snip.find("table1").cells}
    shifted = {key: run for key, run in found.items() if run.recipe.augment}
    assert len(shifted) == 10 and set(shifted) == {key for key in found if key[1].endswith("shifted")}
    for (row, column), run in shifted.items():
        still = found[row, column.replace("shifted", "best")]
        assert replace(run, recipe=still.recipe) == still  # the protocol and the data are the same
        assert run.recipe.steps == still.recipe.steps
    for model in ("lenet-300-100", "lenet-5-caffe"):
        assert len({run.recipe for run in shifted.values() if run.model == model}) == 1  # sparse and dense alike


def test_the_literal_recipe_is_the_printed_one(snip: Paper) -> None:
    # §5: SGD with momentum 0.9, batch 100, weight decay 0.0005, 0.1 decayed by 0.1 every 25k; 10 % held out.
    (cell,) = (
        one
        for one in snip.find("table1").cells
        if (one.row, one.column) == ("LeNet-300-100, 95 %", "same weights, literal")
    )
    recipe = cell.experiment.recipe
    assert (recipe.optimizer, recipe.batch) == (Sgd(momentum=0.9, weight_decay=0.0005), 100)
    assert recipe.rate == Stairs(start=0.1, every=25_000, factor=0.1)
    assert cell.experiment.validation == 0.1
    on_cifar = next(one for one in snip.find("table2").cells if one.row.startswith("VGG-C")).experiment.recipe
    assert (on_cifar.optimizer, on_cifar.batch, on_cifar.augment) == (Sgd(0.9, 0.0005), 128, True)
    assert on_cifar.rate == Stairs(start=0.1, every=30_000, factor=0.1)


def _table_2(monkeypatch: pytest.MonkeyPatch, found: str) -> Artefact:
    from papers.snip_2019 import table2  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(table2, "cifar_on_disk", lambda: found)
    return replace(table2.ARTEFACT, cells=tuple(table2.cells()))


def test_table_2(snip: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    published = _table_2(monkeypatch, "cifar-10")
    assert len(published.cells) == 2 * len(TABLE_2)
    for cell in published.cells:
        title, _, sparsity = cell.row.removesuffix(" %").partition(", ")
        percent, dense, sparse = TABLE_2[title]
        assert float(sparsity) == percent
        assert cell.paper == (dense if cell.column == "dense" else sparse)
        assert cell.experiment.density == (1.0 if cell.column == "dense" else pytest.approx(1 - percent / 100))
        assert cell.experiment.model == title.lower()
        assert cell.experiment.data == ("mnist" if title[:4] in ("LSTM", "GRU-") else "cifar-10")
    assert published.layout(published.cells, {}).count("14.12 → 14.99 | +0.87 | – | – | –") == 1


def test_errors_on_jpeg_copies_are_compared_with_no_published_ones(
    snip: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = _table_2(monkeypatch, "cifar-10-jpeg75")
    assert {cell.experiment.data for cell in copied.cells if not cell.comparable} == {"cifar-10-jpeg75"}
    assert {cell.experiment.data for cell in copied.cells if cell.comparable} == {"mnist"}
    assert copied.layout(copied.cells, {}).count("14.12 → 14.99 | +0.87 | – | – | –") == 1


def test_which_cifar_is_taken(snip: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    from papers.snip_2019 import setting  # pyright: ignore[reportMissingImports]

    for place, expected in ((None, "cifar-10-jpeg75"), ("somewhere", "cifar-10")):
        monkeypatch.setattr(setting, "whereabouts", lambda place=place: {"cifar-10": place, "cifar-10-jpeg75": "here"})
        assert setting.cifar_on_disk() == expected
    monkeypatch.undo()
    assert setting.cifar_on_disk() == ("cifar-10" if data.whereabouts()["cifar-10"] else "cifar-10-jpeg75")


def test_table_3(snip: Paper) -> None:
    artefact = snip.find("table3")
    assert artefact.seeds == 20  # "run 20 sets of experiments"
    printed: dict[str, dict[str, float | None]] = {}
    for cell in artefact.cells:
        printed.setdefault(cell.row, {})[cell.column] = cell.paper
        run = cell.experiment
        # §5.5: 90 % sparsity, Adam at 0.001 without weight decay, "for training VS-X initialization is used in all"
        assert (run.density, run.recipe.optimizer, run.recipe.rate) == (0.1, Adam(weight_decay=0.0), Constant(0.001))
        assert (run.initialiser, run.score_initialiser) == ("vs-x", cell.column.lower())
    assert printed == TABLE_3


def test_the_search_is_no_result_of_the_paper_s(snip: Paper) -> None:
    search = snip.find("search")
    assert {cell.paper for cell in search.cells} == {None}  # so that the table of verdicts does not count it
    assert "1.6 % at 95 %" in search.about and "2.4 % at 98 %" in search.about


def test_figure_1_spans_the_paper_s_axis_and_beyond(snip: Paper) -> None:
    artefact = snip.find("figure1")
    assert artefact.seeds == 20  # §5.1: 20 times for each sparsity
    for title in ("LeNet-300-100", "LeNet-5-Caffe with ReLU", "LeNet-5-Caffe"):
        own = [cell for cell in artefact.cells if cell.column == "SNIP" and cell.row.startswith(f"{title}, ")]
        sparsities = [float(cell.row.removesuffix(" %").partition(", ")[2]) for cell in own]
        assert {0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99} < set(sparsities)
        assert [cell.experiment.density for cell in own] == pytest.approx(
            [1 - sparsity / 100 for sparsity in sparsities]
        )
        assert own[0].experiment.method == "dense"
        assert {cell.dense for cell in own[1:]} == {own[0].name} and not own[0].dense
    checks = {cell.experiment.sanity for cell in artefact.cells}
    methods = {cell.experiment.method for cell in artefact.cells}
    assert checks == set(Sanity)
    assert methods == {"dense", "snip", "magnitude", "random", "erk", "grasp", "synflow", "force"}


def test_figure_3_scores_the_printed_batches(snip: Paper) -> None:
    cells = snip.find("figure3").cells
    assert [cell.experiment.score_batch for cell in cells] == [1, 10, 100, 1_000, 10_000, 54_000]
    assert {(cell.experiment.density, cell.experiment.recipe.batch) for cell in cells} == {(0.1, 100)}


def test_figure_4_randomises_what_is_trained(snip: Paper) -> None:
    cells = {cell.column: cell.experiment for cell in snip.find("figure4").cells}
    assert {name: run.random_labels for name, run in cells.items()} == {
        "dense, true labels": False,
        "dense, random labels": True,
        "dense + L2, random labels": True,
        "pruned, true labels": False,
        "pruned, random labels": True,
    }
    assert {run.density for name, run in cells.items() if "pruned" in name} == {0.01}
    assert {run.model for run in cells.values()} == {"lenet-5-caffe"}


def test_figures_draw_what_there_is_and_nothing_from_nothing(snip: Paper, tmp_path: Path) -> None:
    for name in ("figure1", "figure3", "figure4"):
        artefact = snip.find(name)
        assert illustrate(artefact, Gathered(artefact.cells, {}, {}), tmp_path) == []
    assert not list(tmp_path.iterdir())
    figure = snip.find("figure1")
    some = [cell for cell in figure.cells if cell.row == "LeNet-5-Caffe, 0 %" or cell.column == "random, ERK"]
    records = {cell.name: record(2.0, 3.0, experiment=cell.experiment) for cell in some}
    drawn = illustrate(figure, Gathered(figure.cells, records, {}), tmp_path)
    assert [path.name for path in drawn] == ["figure1-lenet-300-100.png", "figure1-lenet-5-caffe.png"]
    assert all(path.stat().st_size > 5_000 for path in drawn)


@pytest.mark.data
def test_figure_2_shows_the_class_at_high_sparsity(snip: Paper, data_dir: Path) -> None:
    from papers.snip_2019 import figure2  # pyright: ignore[reportMissingImports]

    dataset = data.load("mnist", data_dir=data_dir, seed=0)
    raw = data.load("mnist", data_dir=data_dir, seed=0, standardise=False)
    for label in (0, 1):
        panels = list(figure2.panels(dataset, label))
        assert [panel.shape for panel in panels] == [(28, 28)] * 9
        ink = raw.train.x[(raw.train.y == label).nonzero().flatten()[:100]].mean(dim=(0, 1)).flatten()
        last = panels[-1].flatten()
        # Connections survive where the class has ink, and die where it never has any.
        assert last[ink > 0.5].mean() > 4 * last[ink < 0.01].mean()
        assert torch.corrcoef(torch.stack([last, ink]))[0, 1] > 0.3
