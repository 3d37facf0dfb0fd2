"""What the command line says: of folders that are not there, on narrow terminals, of what a run was asked for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from secateur.cli import main

RUN = ["run", "--steps", "6", "--runs", "r"]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_data_folder_that_is_not_there_is_refused_wherever_else_the_data_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying = tmp_path / "data" / "MNIST" / "raw"
    lying.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (lying / f"{part}-ubyte.gz").write_bytes(b"")
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "data"))
    assert main(["run", "--data", "mnist", "--data-dir", str(tmp_path / "nowhere"), "--steps", "2"]) != 0
    assert re.search("(`data_dir`|--data-dir) must be a folder that exists", capsys.readouterr().err)


def test_a_narrow_terminal_breaks_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.cli.text import Table, console

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = Table("", ("parameter", ">kept", ">of", ">density", ">empty rows", ">empty columns"))
    table.add("features.0.weight", "1,234,567", "266,200,000", "5.00 %", 7, 2_000_000)
    for columns in range(20, 140, 10):
        monkeypatch.setenv("COLUMNS", str(columns))
        console.show(table)
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("1,234,567", "266,200,000", "5.00 %", "2000000")), (columns, shown)


def test_show_says_a_recipe_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--density", "0.05", "--json"]) == 0
    (directory,) = [result["directory"] for result in json.loads(capsys.readouterr().out)["results"]]
    assert main(["show", directory]) == 0
    shown = capsys.readouterr().out
    assert "{" not in shown and re.search(r"recipe: .*rate ramp \(peak 0\.\d+, steps 6", shown), shown


def test_a_program_that_trains_by_itself_runs_from_what_was_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--method", "gal", "--option", "strength=30", "--json"]) == 0
    (run,) = Path("r").glob("gal-*")
    assert list(Path("r").glob("dense-*")), "it prunes a network that has been trained"
    assert json.loads((run / "result.json").read_text())["density"] <= 1
