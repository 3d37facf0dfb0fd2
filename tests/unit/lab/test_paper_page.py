"""Tables and pages from records: a miss is shown with its reason, counts are right, linked pictures exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from paper_cases import BASE, DENSE, cell, record
from secateur.lab.experiment import shortened
from secateur.lab.paper import (
    Artefact,
    Cell,
    Gathered,
    Paper,
    Record,
    Verdict,
    canvas,
    cross,
    grid,
    illustrate,
    lines,
    markdown,
    misses,
    outcomes,
    save_figure,
    write_page,
)
from secateur.lab.paper import write_records as write_records
from secateur.lab.repeat import ArtefactError


def table(text: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in row.strip("|").split(" | ")] for row in rows]


def test_lines_say_a_miss_and_what_was_not_measured() -> None:
    cells = [
        cell("net", "sparse", paper=0.5),
        cell("net", "dense", DENSE, paper=1.0),
        cell("net", "later", paper=9.0),
        cell("net", "bad", paper=9.0),
    ]
    records = {
        "net · sparse": record(1.0, 1.1, 1.2),
        "net · dense": record(1.0, experiment=DENSE),
        "net · bad": record(failures=("seed 0: no luck.",)),
    }
    rows = table(lines(cells, records))
    assert rows[0][2:] == ["paper", "ours", "best epoch", "seeds", "steps", "kept", ""]
    assert rows[2] == ["net", "sparse", "0.50", "1.10 ± 0.10", "0.85", "3", "20", "2,510", "**miss**"]
    assert rows[3] == ["net", "dense", "1.00", "1.00", "0.75", "1", "20", "2,510", "not judged"]
    assert rows[4] == ["net", "later", "9.00", *["–"] * 5, "not measured"]
    assert rows[5][3] == "failed" and rows[5][-1] == "**failed**"
    assert {len(row) for row in rows} == {9}


def test_a_grid_has_errors_and_leaves_holes_empty() -> None:
    cells = [
        cell("5 %", "sparse"),
        cell("5 %", "dense", DENSE),
        cell("1 %", "sparse", replace(BASE, density=0.01), paper=0.1),
    ]
    records = {
        "5 % · sparse": record(1.0, 3.0),
        "5 % · dense": record(1.0, experiment=DENSE),
        "1 % · sparse": record(2.0, 2.0, 2.0),
    }
    errors = table(grid(cells, records))
    assert errors[0] == ["", "sparse", "dense"]
    assert errors[2:] == [["5 %", "2.00 ± 1.41 (2)", "1.00 (1)"], ["1 %", "2.00 ± 0.00 (3) **miss**", ""]]
    assert table(grid(cells, {}))[2] == ["5 %", "–", "–"]


def test_a_table_can_be_turned() -> None:
    cells = [cell("5 %", "sparse"), cell("5 %", "dense"), cell("1 %", "dense")]
    rows = table(cross(cells, lambda one: one.name, turned=True))
    assert rows[0] == ["", "5 %", "1 %"]
    assert rows[2:] == [["sparse", "5 % · sparse", ""], ["dense", "5 % · dense", "1 % · dense"]]


def test_a_bar_in_a_text_does_not_end_a_column() -> None:
    assert markdown([("a|b", "c")]) == "| a\\|b | c |"


# A paper with one cell of every outcome, and a figure.
CELLS = (
    cell("net", "reached", paper=2.0),
    cell("net", "near", paper=2.0),
    cell("net", "missed", paper=2.0, why="Too few steps."),
    cell("net", "failed", paper=2.0),
    cell("net", "single", paper=2.0),
    cell("net", "unmeasured", paper=2.0),
    cell("net", "again", paper=2.0, counts=False),
)
RECORDS = {
    "net · reached": record(1.9, 1.9, 1.9, failures=("seed 2: its process died",)),
    "net · near": record(2.0, 2.1, 2.1, command="secateur paper tiny table --only near --record"),
    "net · missed": record(3.0, 3.0, 3.0),
    "net · single": record(1.0),
    "net · failed": record(failures=("seed 0: training diverged.",)),
    "net · again": record(50.0, 50.0, 50.0, threads=2),
}


def draw(gathered: Gathered, folder: Path) -> list[tuple[str, str]]:
    figure, (axes,) = canvas(1, 1, width=1.0, height=1.0)
    axes.plot([0, 1])
    save_figure(figure, folder / "curve.png")
    return [("curve.png", f"A line among {len(gathered.cells)} cells")]


def paper_in(clone: Path, records: Mapping[str, Record], cells: tuple[Cell, ...] = CELLS) -> Paper:
    artefacts = (
        Artefact("table", "Table 1", "About the table.", cells, lines),
        Artefact("figure", "Figure 1", "About the figure.", (), grid, draw=draw),
    )
    folder = clone / "papers" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    paper = Paper("tiny", "Tiny, 1999", "\nWhat it is.\n", folder, {artefact.name: artefact for artefact in artefacts})
    write_records(paper.expected(artefacts[0]), CELLS, records)
    return paper


def test_verdicts_are_counted() -> None:
    count = outcomes(Artefact("table", "", "", CELLS, lines), RECORDS)
    assert count == {one: 1 for one in Verdict}


def test_misses_come_with_their_reason_and_failures_with_theirs() -> None:
    assert misses(Artefact("table", "", "", CELLS, lines), RECORDS) == [
        "net, reached: seed 2: its process died.",
        "net, missed: 3.00 ± 0.00 where the paper has 2.00. Too few steps.",
        "net, failed: seed 0: training diverged.",
        "net, again: 50.00 ± 0.00 where the paper has 2.00. Why is not known.",
    ]


def test_a_miss_without_a_reason_is_said_to_have_none() -> None:
    (sentence,) = misses(Artefact("table", "", "", (replace(CELLS[2], why=""),), lines), RECORDS)
    assert sentence == "net, missed: 3.00 ± 0.00 where the paper has 2.00. Why is not known."


def test_shortened_runs_are_no_miss() -> None:
    short = record(3.0, 3.0, 3.0, experiment=replace(BASE, recipe=replace(BASE.recipe, steps=5)))
    assert misses(Artefact("table", "", "", CELLS, lines), {"net · missed": short}) == []


def test_the_page_shows_everything(tmp_path: Path) -> None:
    paper = paper_in(tmp_path, RECORDS)
    docs = tmp_path / "docs" / "papers"
    figure = paper.find("figure")
    assert illustrate(figure, Gathered(figure.cells, {}, {}), docs / "tiny") == [docs / "tiny" / "curve.png"]
    assert write_page(paper, docs) == docs / "tiny.md"
    page = (docs / "tiny.md").read_text()
    assert page.startswith("# Tiny, 1999\n\nWhat it is.\n\n") and page.endswith("\n") and "\n\n\n" not in page
    summary = table(page)[:3]
    assert summary[0][:5] == ["", "numbers", "at or below", "within tolerance", "miss"]
    assert summary[0][5:] == ["failed", "not judged", "not measured"]
    assert summary[2] == ["Table 1", "6", "1", "1", "1", "1", "1", "1"]
    assert lines(CELLS, RECORDS) in page
    assert "* net, missed: 3.00 ± 0.00 where the paper has 2.00. Too few steps.\n" in page
    assert "$ secateur paper tiny table --record\n$ secateur paper tiny table --only near --record\n" in page
    assert "$ secateur paper tiny figure --record\n" in page
    assert "Data: Digits. Machine: Abacus, 1 thread per run; Abacus, 2 threads per run. Engine: sparse." in page
    assert f"Steps: {BASE.model} 20." in page
    brief = {
        name: replace(one, experiment=replace(BASE, recipe=shortened(BASE.recipe, 5))) for name, one in RECORDS.items()
    }
    assert f"Steps: {BASE.model} 5 of 20." in write_page(paper_in(tmp_path / "short", brief), docs).read_text()
    write_page(paper, docs)
    linked = re.findall(r"!\[(.*)\]\((.*)\)", page)
    assert linked == [("A line among 0 cells", "tiny/curve.png")]
    assert imread(docs / linked[0][1]).ndim == 3
    before = page
    write_page(paper, docs)
    assert (docs / "tiny.md").read_text() == before  # a pure function of what is recorded


def test_a_picture_that_is_gone_is_not_linked(tmp_path: Path) -> None:
    paper, docs = paper_in(tmp_path, {}), tmp_path / "docs"
    (path,) = illustrate(paper.find("figure"), Gathered((), {}, {}), docs / "tiny")
    assert "curve.png" in write_page(paper, docs).read_text()
    path.unlink()
    assert "curve.png" not in write_page(paper, docs).read_text()


def test_pictures_of_other_artefacts_are_remembered(tmp_path: Path) -> None:
    figure = Artefact("one", "", "", (), grid, draw=draw)
    for artefact in (figure, replace(figure, name="two"), replace(figure, name="three", draw=None)):
        illustrate(artefact, Gathered((), {}, {}), tmp_path)
    known = (tmp_path / "pictures.json").read_text()
    assert '"one"' in known and '"two"' in known and '"three"' not in known


def test_a_page_of_nothing_recorded_says_so(tmp_path: Path) -> None:
    page = write_page(paper_in(tmp_path, {}), tmp_path / "docs").read_text()
    assert table(page)[2] == ["Table 1", "6", "0", "0", "0", "0", "0", "6"]
    assert page.count("not measured") == 1 + len(CELLS) and "Data:" not in page and "Misses" not in page


def test_outdated_records_are_left_out_and_named(tmp_path: Path) -> None:
    changed = (replace(CELLS[0], experiment=replace(BASE, recipe=replace(BASE.recipe, batch=51))), *CELLS[1:])
    page = write_page(paper_in(tmp_path, RECORDS, changed), tmp_path / "docs").read_text()
    assert (
        "Recorded before these cells were changed, and left out until they are run again:\n\n* net · reached\n" in page
    )
    assert table(page)[2] == ["Table 1", "6", "0", "1", "1", "1", "1", "2"]


@pytest.mark.parametrize(
    "name", ["papers/tiny/table.expected.json", "papers/tiny/table.cost.json", "docs/tiny/pictures.json"]
)
def test_a_damaged_file_is_named_and_no_page_written(name: str, tmp_path: Path) -> None:
    paper = paper_in(tmp_path, RECORDS)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"figure": [["no caption"]], "table": 3}')
    with pytest.raises(ArtefactError, match=rf"{path.name} is damaged"):
        write_page(paper, tmp_path / "docs")
    assert not (tmp_path / "docs" / "tiny.md").exists()
