"""`secateur sensitivity`: on a run of the lab, and wrong words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from secateur.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "runs"
    words = ["run", "--data", "digits", "--method", "dense", "--steps", "60", "--runs", str(folder)]
    assert main([*words, "--quiet", "--json"]) == 0
    return folder


def asked(capsys: pytest.CaptureFixture[str], runs: Path, *words: str) -> dict[str, Any]:
    name = next(runs.iterdir()).name
    capsys.readouterr()
    assert main(["sensitivity", name, "--runs", str(runs), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_scan_and_the_smallest_network(capsys: pytest.CaptureFixture[str], runs: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "scan.csv", tmp_path / "scan.png"
    files = ["--csv", str(table), "--png", str(picture)]
    found = asked(capsys, runs, "--densities", "100%,30%,5%", "--within", "3%", "--on", "test", *files)
    assert found["format"] == "secateur.sensitivity/1" and found["on"] == "test"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 3 * len(found["layers"]) and picture.read_bytes().startswith(b"\x89PNG")
    for row in rows:
        (level,) = [one for one in found["layers"][row["layer"]] if one["density"] == float(row["density"])]
        assert (level["kept"], level["error"]) == (int(row["kept"]), pytest.approx(float(row["error"]), rel=1e-5))
        if level["density"] == 1:
            assert level["error"] == found["dense"]
    small = found["smallest"]
    assert small["error"] <= found["dense"] + 0.03 and small["kept"] < small["weights"]
    assert small["kept"] == sum(level["kept"] for level in small["layers"].values())


def test_told_to_a_person(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    run = str(next(runs.iterdir()))
    words = ["--densities", "50%", "--only", "fc1.weight", "--within", "0.5%", "--examples", "50"]
    assert main(["sensitivity", run, *words]) == 0
    said = capsys.readouterr().out
    assert "validation set" in said and "quality" in said and "fc1.weight" in said and "fc2" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no run"),
        (["RUN", "--densities", "0"], "density"),
        (["RUN", "--within", "-1"], "0.5%"),
        (["RUN", "--only", "conv*"], "conv"),
        (["RUN", "--csv", "no/such/place.csv"], "no directory"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    name = next(runs.iterdir()).name
    asked_for = [name if word == "RUN" else word for word in words]
    assert main(["sensitivity", *asked_for, "--runs", str(runs)]) != 0
    assert said in capsys.readouterr().err
