"""Records of cells: made from runs, written and read back equal, refused when damaged, left out when outdated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paper_cases import BASE, DENSE, cell, record, unsealed
from secateur.lab.comparing import Comparison, compare
from secateur.lab.experiment import Constant, Experiment, Recipe, shortened
from secateur.lab.paper import (
    Artefact,
    Cell,
    Length,
    Paper,
    Record,
    at_hand,
    condense,
    current_records,
    finished,
    keep_records,
    lines,
    outdone,
    read_records,
    run_cells,
    write_page,
    write_records,
)
from secateur.lab.repeat import ArtefactError
from secateur.lab.running import Result

CELLS = (
    cell("a", paper=1.6, why="Because."),
    cell("b", "dense", DENSE),
    cell("c", experiment=replace(BASE, density=0.5)),
)
FULL = record(1.5, 1.7, command="secateur paper tiny table --only 'a | b'", failures=("seed 2: it diverged.",))


def paper_in(folder: Path, *cells: Cell) -> tuple[Paper, Artefact]:
    artefact = Artefact("table", "Table", "", cells, lines)
    return Paper("tiny", "Tiny", "", folder, {"table": artefact}), artefact


def result(seed: int, error: float, *, best: float = 0.0, seconds: float = 2.0, **machine: Any) -> Result:
    facts = {
        "test_error": error,
        "best": {"test_error": best},
        "seconds": {"train": seconds},
        "kept": 2_510 + seed,
        "engine": {"name": machine.pop("engine", "sparse")},
        "machine": {"cpu": "Abacus", "threads": 1} | machine,
        "data": {"title": "Digits"},
    }
    return Result(replace(BASE, seed=seed), Path("nowhere"), facts)


def test_records_are_written_and_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "table.expected.json"
    records = {"a · snip": FULL, "b · dense": record(experiment=DENSE, failures=("seed 0: no luck.",))}
    write_records(path, CELLS, records)
    assert read_records(path) == records
    assert read_records(tmp_path / "none.json") == {}


def test_runs_in_bfloat16_are_records_of_the_cell_and_said_to_be(tmp_path: Path) -> None:
    one = cell("a", paper=1.6)
    (experiment,) = Length(1, bf16=True).of(one)
    assert experiment == replace(BASE, bf16=True) and experiment.hash != BASE.hash
    paper, artefact = paper_in(tmp_path, one)
    found = {one.name: record(1.5, experiment=experiment, engine="torch")}
    assert keep_records(paper, artefact, found) == found == read_records(paper.expected(artefact))
    assert "Engine: torch in bfloat16." in write_page(paper, tmp_path / "docs").read_text()
    # A cell that is in bfloat16 itself is run so in any case.
    assert Length(1).of(cell(experiment=experiment)) == (experiment,)


def test_the_file_says_what_was_expected_and_what_came_out(tmp_path: Path) -> None:
    path = tmp_path / "table.expected.json"
    write_records(path, CELLS, {"a · snip": FULL})
    content = json.loads(path.read_text())
    assert content["format"] == "secateur.expected/1"
    first, second, third = content["cells"]
    assert {key: first[key] for key in ("cell", "paper", "points", "why", "verdict")} == {
        "cell": "a · snip",
        "paper": 1.6,
        "points": 0.1,
        "why": "Because.",
        "verdict": "not judged",
    }
    ours = first["ours"]
    assert (ours["mean"], ours["std"], ours["steps"], ours["seeds"]) == (1.6, 0.141, 20, [0, 1])
    assert Experiment.from_json(ours["experiment"]) == BASE  # model, data, density and recipe
    assert (second["verdict"], third["verdict"]) == ("not measured", "not measured")
    assert "ours" not in second


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: "[]", "not a JSON object"),
        (
            lambda text: text.replace("expected/1", "expected/9"),
            "its format is 'secateur.expected/9', not 'secateur.exp",
        ),
        (lambda text: "{}", "its format is None"),
        (lambda text: text.replace('"errors"', '"horrors"'), "KeyError: 'errors'"),
        (lambda text: text.replace('"kept"', '"left"'), "KeyError: 'kept'"),
        (lambda text: text.replace('"cell": "a', '"box": "a'), "KeyError: 'cell'"),
        (lambda text: text.replace("1.7", '"much"'), "ValueError: could not convert string to float: 'much'"),
        (lambda text: text.replace("2510", "[]"), "TypeError: int"),
        (lambda text: text.replace('"model"', '"modell"'), "has no field 'modell'"),
        (lambda text: '{"format": "secateur.expected/1", "cells": ["a"]}', "ValueError"),
        (lambda text: '{"format": "secateur.expected/1", "cells": 3}', "TypeError"),
    ],
)
def test_damaged_and_foreign_files_are_named(damage: Callable[[str], str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "table.expected.json"
    write_records(path, CELLS, {"a · snip": FULL})
    path.write_text(damage(unsealed(path.read_text())))
    with pytest.raises(
        ArtefactError, match=rf"table\.expected\.json is damaged \(.*{why}.*\)\. Delete it and run again"
    ):
        read_records(path)
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match=r"table\.expected\.json is damaged"):
        keep_records(*paper_in(tmp_path, *CELLS), {"c · snip": record(2.0)})
    assert path.read_bytes() == before


def test_a_changed_record_is_refused_until_its_checksum_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "table.expected.json"
    write_records(path, CELLS, {"a · snip": FULL})
    changed = path.read_text().replace("1.7", "1.5")
    path.write_text(changed)
    with pytest.raises(ArtefactError, match=r"damaged \(its checksum is .*changed on purpose, take out the entry 'sec"):
        read_records(path)
    path.write_text(unsealed(changed))
    assert read_records(path)["a · snip"].errors == (1.5, 1.5)


def test_keep_replaces_only_what_was_run(tmp_path: Path) -> None:
    paper, artefact = paper_in(tmp_path, *CELLS)
    old = {"a · snip": FULL, "b · dense": record(3.0, experiment=DENSE)}
    assert keep_records(paper, artefact, old) == old
    fresh = {"b · dense": record(2.0, 2.2, experiment=DENSE), "c · snip": record(9.0, experiment=CELLS[2].experiment)}
    assert keep_records(paper, artefact, fresh) == {"a · snip": FULL, **fresh}
    assert read_records(paper.expected(artefact)) == {"a · snip": FULL, **fresh}
    assert [entry["cell"] for entry in json.loads(paper.expected(artefact).read_text())["cells"]] == [
        "a · snip",
        "b · dense",
        "c · snip",
    ]


@pytest.mark.parametrize(
    ("fresh", "stays"),
    [
        (record(9.0), True),  # fewer seeds
        (record(9.0, 8.0, 7.0, experiment=replace(BASE, recipe=shortened(BASE.recipe, 10))), True),  # fewer steps
        (record(9.0, 8.0), False),  # as many: the program may have changed
        (record(9.0, experiment=replace(BASE, recipe=shortened(BASE.recipe, 40))), False),
        (record(9.0, failures=("seed 1: no luck.",)), False),
    ],
)
def test_what_took_more_work_stays(fresh: Record, stays: bool, tmp_path: Path) -> None:
    paper, artefact = paper_in(tmp_path, *CELLS)
    known = {"a · snip": record(2.0, 2.2)}
    keep_records(paper, artefact, known)
    assert outdone(artefact, {"a · snip": fresh}, known) == (known if stays else {})
    assert keep_records(paper, artefact, {"a · snip": fresh}) == (known if stays else {"a · snip": fresh})


def test_a_record_of_another_experiment_is_no_record_of_the_cell(tmp_path: Path) -> None:
    (one,) = CELLS[:1]
    other = replace(one, experiment=replace(BASE, recipe=replace(BASE.recipe, batch=51)))
    assert current_records([one], {one.name: FULL}) == {one.name: FULL}
    assert current_records([other], {one.name: FULL}) == {}
    paper, artefact = paper_in(tmp_path, other)
    write_records(paper.expected(artefact), [one], {one.name: FULL})
    assert keep_records(paper, artefact, {}) == {}
    assert read_records(paper.expected(artefact)) == {one.name: FULL}  # kept: the cell may change back
    assert json.loads(paper.expected(artefact).read_text())["cells"][0]["verdict"] == "not measured"


@pytest.mark.parametrize("length", [Length(1), Length(2, steps=7), Length(1, quick=True), Length(1, bf16=True)])
def test_a_record_of_another_length_is_the_cell_s_own(length: Length) -> None:
    one = cell(quick=5, quick_examples=40)
    found = record(1.0, experiment=length.of(one)[0])
    assert current_records([one], {one.name: found}) == {one.name: found}
    renamed = replace(one, experiment=replace(BASE, recipe=replace(BASE.recipe, name="only a label")))
    assert current_records([renamed], {one.name: found}) == {one.name: found}


def test_a_record_is_condensed_from_the_facts() -> None:
    found = condense([BASE], [result(0, 0.0161, best=0.015, seconds=3.0), result(1, 0.02, seconds=5.0)], [], "c")
    assert found.errors == (1.61, 2.0) and found.best == (1.5, 0.0) and found.seconds == (3.0, 5.0)
    assert (found.seeds, found.kept, found.engine, found.threads) == ((0, 1), 2_510, "sparse", 1)
    assert (found.machine, found.data, found.command, found.experiment) == ("Abacus", "Digits", "c", BASE)


def test_runs_on_several_machines_are_said_to_be() -> None:
    runs = [result(0, 0.1), result(1, 0.1, threads=2, engine="torch"), result(2, 0.1, accelerator="H200")]
    found = condense([BASE], runs, [], "c")
    assert (found.machine, found.engine, found.threads) == ("Abacus; H200", "sparse; torch", 0)


def test_a_cell_whose_runs_all_failed_says_why() -> None:
    found = condense([DENSE], [], ["seed 0: no luck."], "c")
    assert (found.mean, found.steps, found.failures, found.machine) == (None, 20, ("seed 0: no luck.",), "")


def test_measure_runs_once_what_two_cells_share_and_keeps_failures_apart(tmp_path: Path) -> None:
    wild = replace(BASE, recipe=Recipe(20, Constant(1e30), batch=50))
    cells = [cell("a"), cell("b"), cell("wild", experiment=wild)]
    asked: list[Experiment] = []

    def run_all(experiments: Sequence[Experiment]) -> Comparison:
        asked.extend(experiments)
        return compare(experiments, root=tmp_path)

    found = run_cells(cells, Length(2), "command", run_all)
    assert len(asked) == 4 and found["a · snip"] == found["b · snip"]
    assert found["a · snip"].seeds == (0, 1) and not found["a · snip"].failures
    assert found["wild · snip"].errors == ()
    assert [text[:24] for text in found["wild · snip"].failures] == [
        "seed 0: training diverge",
        "seed 1: training diverge",
    ]
    direct = json.loads((tmp_path / BASE.name / "result.json").read_text())
    assert found["a · snip"].errors[0] == pytest.approx(100 * direct["test_error"], abs=1e-4)
    assert found["a · snip"].kept == direct["kept"] == 2_510

    length = Length(3)
    assert [one.seed for one in finished(length.of(cells[0]), tmp_path)] == [0, 1]
    there = at_hand(cells, length, tmp_path)
    assert [[one.experiment.seed for one in there[each.name]] for each in cells] == [[0, 1], [0, 1], []]


def test_what_is_not_run_has_no_record() -> None:
    assert run_cells([cell("a")], Length(2), "command", lambda experiments: Comparison((), {})) == {}
