"""`secateur paper` from end to end, on a tiny paper of its own: run, resumed, recorded, drawn, written as a page."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from secateur.cli import main
from secateur.cli.commands.lab._paper import ABOUT, ALL, PAGE
from secateur.lab.comparing import _runners
from secateur.lab.paper import _artefact
from secateur.lab.running import run

Captured = pytest.CaptureFixture[str]


def expected(name: str, artefact: str = "table") -> dict[str, Any]:
    path = Path("papers") / name / f"{artefact}.expected.json"
    return {entry["cell"]: entry for entry in json.loads(path.read_text())["cells"]}


def test_a_table_beside_the_paper_s(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--seeds", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    title, heads, _, snip, dense, random = (line.split("  ") for line in captured.out.splitlines())
    assert title == ["Table 1"]
    found = [[part.strip() for part in line if part.strip()] for line in (heads, snip, dense, random)]
    assert found[0] == ["paper", "ours", "best", "seeds", "steps", "verdict"]
    assert found[1][:3] == ["LeNet", "SNIP", "99.00"] and found[1][-1] == "at or below"
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", found[1][3]) and found[1][5:7] == ["3", "20"]
    assert found[2][:3] == ["LeNet", "dense", "0.00"] and found[2][-1] == "miss"
    assert found[3][2] == "–" and found[3][-1] == "20"  # no number to compare with, no verdict
    assert len(list(Path("runs").glob("*/result.json"))) == 9
    assert not Path("docs").exists() and not list(Path("papers").rglob("*.json"))


def test_the_same_command_with_more_seeds_adds_only_those(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--seeds", "1", "--only", "snip", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"][0]["ours"]
    (result,) = Path("runs").glob("*/result.json")
    stamp = result.stat().st_mtime_ns
    assert main(["paper", tiny, "table", "--seeds", "3", "--only", "snip", "--json"]) == 0
    third = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"][0]["ours"]
    assert third["seeds"] == [0, 1, 2] and third["errors"][:1] == first["errors"]
    assert result.stat().st_mtime_ns == stamp and len(list(Path("runs").glob("*/result.json"))) == 3


def test_interrupted_and_resumed(tiny: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def interrupted(experiment: Any, **places: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(experiment.name)
        return run(experiment, **places)

    monkeypatch.setattr(_runners, "run", interrupted)
    command = ["paper", tiny, "table", "--seeds", "2", "--json"]
    assert main(command) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and "The same command goes on" in captured.err
    assert [name.split("-")[0] for name in done] == ["snip", "dense", "random"]  # one seed of the whole table
    monkeypatch.setattr(_runners, "run", run)
    assert main([*command, "--finished", "--only", "snip"]) == 0  # what there is, without running anything
    ours = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"][0]["ours"]
    assert ours["seeds"] == [0]
    again: list[str] = []
    monkeypatch.setattr(
        _runners, "run", lambda experiment, **places: again.append(experiment.name) or run(experiment, **places)
    )
    stamps = {name: (Path("runs") / name / "result.json").stat().st_mtime_ns for name in done}
    assert main(command) == 0
    cells = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"]
    assert [cell["ours"]["seeds"] for cell in cells] == [[0, 1]] * 3 and len(again) == 6
    assert stamps == {name: (Path("runs") / name / "result.json").stat().st_mtime_ns for name in done}


def test_finished_runs_nothing(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--finished"]) == 0
    assert capsys.readouterr().out.count("not measured") == 3
    assert not Path("runs").exists()


def test_quick_is_a_few_steps_on_a_few_examples(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--quick", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"]
    assert [cell["cell"] for cell in cells] == ["LeNet · SNIP", "LeNet · dense", "LeNet · random"]
    assert [(cell["ours"]["steps"], cell["ours"]["seeds"]) for cell in cells] == [(3, [0])] * 3
    assert [cell["ours"]["experiment"].get("examples", 0) for cell in cells] == [60, 60, 0]
    assert cells[0]["ours"]["data"] == "Digits, first 60" and cells[2]["ours"]["data"] == "Digits"


def test_record_keeps_what_was_recorded_of_other_cells(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--seeds", "1", "--steps", "4", "--record"]) == 0
    before = expected(tiny)
    assert [entry["ours"]["steps"] for entry in before.values()] == [4, 4, 4]
    assert main(["paper", tiny, "table", "--seeds", "1", "--only", "dense", "--threads", "1", "--record"]) == 0
    after = expected(tiny)
    assert [entry["ours"]["steps"] for entry in after.values()] == [4, 20, 4]
    assert [after[name] for name in ("LeNet · SNIP", "LeNet · random")] == [
        before[name] for name in ("LeNet · SNIP", "LeNet · random")
    ]
    command = after["LeNet · dense"]["ours"]["command"]
    assert command == f"secateur paper {tiny} table --only dense --seeds 1 --threads 1 --record"
    capsys.readouterr()
    assert main([*shlex.split(command)[1:], "--json"]) == 0  # the command that is recorded re-derives the numbers
    again = json.loads(capsys.readouterr().out)["artefacts"][0]["cells"][0]["ours"]
    assert again == after["LeNet · dense"]["ours"]


def test_bf16_reaches_every_cell_and_stands_in_the_command(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--quick", "--bf16", "--record", "--json"]) == 0
    ours = [cell["ours"] for cell in json.loads(capsys.readouterr().out)["artefacts"][0]["cells"]]
    assert [one["experiment"]["bf16"] for one in ours] == [True] * 3
    assert {one["command"] for one in ours} == {f"secateur paper {tiny} table --quick --bf16 --record"}
    assert [entry["ours"] for entry in expected(tiny).values()] == ours  # and they count: see the page
    assert main(["paper", tiny, "page"]) == 0
    assert "Engine: torch in bfloat16." in Path("docs/papers", f"{tiny}.md").read_text()


def test_all_runs_what_has_such_cells_and_says_it_in_one_document(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "all", "--quick", "--only", "dense", "--json", "--record"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["paper"]) == ("secateur.paper/1", tiny)
    assert [one["artefact"] for one in document["artefacts"]] == ["table", "figure"]
    assert [[cell["cell"] for cell in one["cells"]] for one in document["artefacts"]] == [["LeNet · dense"]] * 2
    assert len(list(Path("runs").glob("*/result.json"))) == 1  # both show the same run
    assert not (Path("papers") / tiny / "wild.expected.json").exists()


def test_pictures_and_page(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "figure", "--quick", "--only", "dense"]) == 0
    picture = Path("runs/pictures/figure.png")
    assert imread(picture).ndim == 3 and f"picture: {picture}" in capsys.readouterr().out
    assert main(["paper", tiny, "figure", "--quick", "--record"]) == 0
    assert main(["paper", tiny, "figure", "--quick", "--only", "dense", "--record"]) == 0
    assert main(["paper", tiny, "table", "--seeds", "3", "--record"]) == 0
    capsys.readouterr()
    assert main(["paper", tiny, "page"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.resolve() == Path(f"docs/papers/{tiny}.md").resolve()
    page = path.read_text()
    # The picture was drawn again for one cell, from all the runs of that length.
    assert f"![2 curves]({tiny}/figure.png)" in page and (path.parent / tiny / "figure.png").exists()
    assert re.search(
        r"LeNet, dense: \d+\.\d\d ± \d+\.\d\d where the paper has 0\.00\. Twenty steps are too few\.", page
    )
    assert "**miss**" in page and "not measured" in page  # the cell that diverges was not run
    assert main(["paper", tiny, "page", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(path)


def test_how_a_paper_stands(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--seeds", "3", "--only", "dense", "--record"]) == 0
    capsys.readouterr()
    assert main(["paper", tiny]) == 0
    rows = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["Tiny, 1999"] and rows[1] == ["artefact", "what", "cells", "seeds", "recorded", "misses"]
    assert rows[3:] == [
        ["table", "Table 1", "3", "2", "1", "1"],
        ["figure", "Figure 1", "2", "1", "0", "0"],
        ["wild", "Wild", "1", "1", "0", "0"],
    ]
    assert main(["paper", tiny, "--json"]) == 0
    standing = json.loads(capsys.readouterr().out)["artefacts"][0]
    assert (standing["recorded"], standing["misses"], standing["cells"]) == (1, 1, 3)
    assert main(["paper"]) == 0
    assert capsys.readouterr().out == f"{tiny}\n"
    assert main(["paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["papers"] == [tiny]


def test_a_failed_run_is_status_1_and_recorded_as_failed(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "wild", "--record"]) == 1
    captured = capsys.readouterr()
    assert "failed" in captured.out
    assert "LeNet · wild: seed 0: training diverged" in captured.err
    assert expected(tiny, "wild")["LeNet · wild"]["verdict"] == "failed"
    assert main(["paper", tiny, "wild", "--finished"]) == 1  # how it ended is kept like any result
    assert "LeNet · wild: seed 0: training diverged" in capsys.readouterr().err
    assert main(["paper", tiny, "wild", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["artefacts"][0]["cells"][0]["ours"]["failures"] and "diverged" in captured.err
    assert main(["paper", tiny, "page"]) == 0
    assert "* LeNet, wild: seed 0: training diverged" in Path(f"docs/papers/{tiny}.md").read_text()


def test_a_record_with_more_seeds_stays(tiny: str, capsys: Captured) -> None:
    command = ["paper", tiny, "table", "--only", "snip", "--record"]
    assert main([*command, "--seeds", "2"]) == 0
    before = expected(tiny, "table")
    capsys.readouterr()
    assert main([*command, "--seeds", "1"]) == 0
    assert "LeNet · SNIP: not recorded, for the record has 20 steps and 2 seeds." in capsys.readouterr().err
    assert expected(tiny, "table") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["snipp_2019"], r"`paper` must be one of tiny_.*, got 'snipp_2019'\."),
        (["TINY", "tabel"], r"must be one of table, figure, wild, got 'tabel'\. Did you mean 'table'\?"),
        (
            ["TINY", "table", "--only", "vgg"],
            r"`only` matches no cell, got 'vgg'\. Cells are: LeNet · SNIP; LeNet · dense",
        ),
        (["TINY", "all", "--only", "vgg"], r"`only` matches no cell, got 'vgg'\. Cells are: "),
        (["TINY", "table", "--quick", "--steps", "3"], r"not allowed with argument"),
        (["TINY", "table", "--seeds", "0"], r"expected a whole number of at least 1, got '0'"),
        (["TINY", "table", "--device", "gpu"], r"--device 'gpu' is not available here"),
        (["TINY", "table", "--quik"], r"unknown option '--quik'\. Did you mean '--quick'\?"),
    ],
)
def test_wrong_words_are_status_2_and_run_nothing(words: list[str], message: str, tiny: str, capsys: Captured) -> None:
    assert main(["paper", *(tiny if word == "TINY" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(message, captured.err), captured.err
    assert "See `secateur paper --help`." in captured.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [[], ["snip_2019"], ["snip_2019", "table1", "--quick"]])
def test_without_a_folder_of_papers_the_way_out_is_said(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_artefact, "__file__", str(tmp_path / "lib" / "python" / "secateur" / "lab" / "paper" / "a.py"))
    assert main(["paper", *words]) == 2
    assert "`paper` needs the folder papers, which is in the repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda package: (package / "table.expected.json").write_text("{}"),
            r"table\.expected\.json is damaged \(its format is None",
        ),
        (
            lambda package: (package / "__init__.py").write_text(
                (package / "__init__.py").read_text().replace('method="random"', 'method="randm"')
            ),
            r"`method` must be one of .*, got 'randm'\. Did you mean 'random'\?",
        ),
    ],
    ids=["damaged", "wrong"],
)
def test_what_would_fail_at_the_end_is_refused_at_the_start(
    spoil: Callable[[Path], object], message: str, tiny: str, capsys: Captured
) -> None:
    spoil(Path("papers") / tiny)
    assert main(["paper", tiny, "table", "--quick", "--record"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(message, captured.err), captured.err
    assert not Path("runs").exists()


def test_missing_data_are_refused_at_the_start(tiny: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path("papers") / tiny / "__init__.py"
    package.write_text(package.read_text().replace('replace(SNIP, method="random")', 'replace(SNIP, data="mnist")'))
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    assert main(["paper", tiny, "table", "--quick", "--record"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "MNIST was not found. Looked for" in captured.err
    assert not Path("runs").exists() and not list(Path("papers").rglob("*.json"))
    assert main(["paper", tiny, "table", "--quick", "--only", "snip"]) == 0  # digits need no files
    assert main(["paper", tiny, "table", "--quick", "--finished"]) == 0  # and what is finished needs no data


def test_the_help_names_the_reserved_words() -> None:
    assert (PAGE, ALL) == ("page", "all")
    assert all(word in ABOUT for word in ("--quick", "--only", "--record", PAGE))
