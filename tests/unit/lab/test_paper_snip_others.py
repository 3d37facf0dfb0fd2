"""papers/snip_2019, Table 1: the rows of the other methods are those that arXiv 1810.02340 prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_cases import record
from secateur.lab.experiment import Recipe
from secateur.lab.paper import Paper, Verdict, load, misses, verdict

ROOT = Path(__file__).resolve().parents[3]

# Table 1, the other rows: sparsity and error on LeNet-300-100 and LeNet-5-Caffe; prunings, augmented objective, bound
# to the architecture. All of them are for trained networks and have hyper-parameters of their own.
TABLE_1_OTHERS = {
    "LWC": (91.7, 1.6, 91.7, 0.8, "many", "no", "yes"),
    "DNS": (98.2, 2.0, 99.1, 0.9, "many", "no", "yes"),
    "LC": (99.0, 3.2, 99.0, 1.1, "many", "yes", "no"),
    "SWS": (95.6, 1.9, 99.5, 1.0, "soft", "yes", "no"),
    "SVD": (98.5, 1.9, 99.6, 0.8, "soft", "yes", "no"),
    "OBD": (92.0, 2.0, 92.0, 2.7, "many", "no", "no"),
    "L-OBS": (98.5, 2.0, 99.0, 2.1, "many", "no", "yes"),
}


@pytest.fixture(scope="module")
def snip() -> Paper:
    return load("snip_2019", ROOT)


def test_table_1_other_rows(snip: Paper) -> None:
    table = snip.find("table1")
    found = {cell.row: cell for cell in table.cells if cell.column.startswith("trained first")}
    assert len(found) == 2 * len(TABLE_1_OTHERS)
    lines = table.layout(table.cells, {}).splitlines()
    for name, (*numbers, prunings, augmented, bound) in TABLE_1_OTHERS.items():
        for title, weights, sparsity, error in (
            ("LeNet-300-100", 266_200, *numbers[:2]),
            ("LeNet-5-Caffe", 430_500, *numbers[2:]),
        ):
            cell = found[f"{name}, {title}, {sparsity:g} %"]
            run = cell.experiment
            assert (cell.paper, cell.points, run.data, run.validation) == (error, 0.5, "mnist", 0.0)
            assert isinstance(run.pretrain, Recipe) and run.pretrain.steps == run.recipe.steps == 12_000
            assert run.density in (1.0, pytest.approx(1 - sparsity / 100))
            assert cell.most_kept is not None
            assert 100 * (1 - cell.most_kept / weights) == pytest.approx(sparsity - 0.05, abs=1e-3)
            (line,) = [line for line in lines if line.startswith(f"| {name}, {title} |")]
            words = [word.strip() for word in line.strip("|").split("|")]
            assert words[1:3] == [f"{sparsity:g}", f"{error:.2f}"] and words[7] == "not measured"
            assert words[8:] == ["yes", prunings, "yes", augmented, bound]


def test_more_weights_than_the_paper_keeps_are_a_miss(snip: Paper) -> None:
    cell = next(cell for cell in snip.find("table1").cells if cell.row.startswith("SVD, LeNet-300"))
    assert cell.most_kept == int(266_200 * 0.0155) == 4_126
    for kept, said in ((4_126, Verdict.REACHED), (4_127, Verdict.MISSED)):
        assert verdict(cell, record(1.5, 1.5, 1.5, experiment=cell.experiment, kept=kept)) is said
    table = snip.find("table1")
    fat = record(1.5, experiment=cell.experiment, kept=5_000)
    (told,) = misses(table, {cell.name: fat})
    assert "with 5,000 weights where it keeps 4,126" in told
