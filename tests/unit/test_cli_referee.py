"""`secateur referee`: a sheet from words to the page, and what is refused before anything is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.cli import main
from secateur.lab import referee
from secateur.lab.experiment import Constant, Recipe
from secateur.lab.referee import Setting

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A setting that takes a second, in a folder of its own."""
    recipe = Recipe(6, Constant(0.1), batch=50, evaluate_every=6)
    found = Setting("tiny", "Tiny on digits", "mlp-64-30-20-10", "digits", recipe, (0.2,), 1, {})
    monkeypatch.setattr(referee, "SETTINGS", (found,))
    monkeypatch.setattr("secateur.lab.referee._setting.SETTINGS", (found,))
    monkeypatch.chdir(tmp_path)
    return found


def test_a_sheet_and_its_page(capsys: Captured) -> None:
    words = ["referee", "tiny", "--methods", "snip", "--densities", "20%,0.1", "--quiet"]
    assert main(words) == 0
    assert (
        capsys.readouterr().out == "tiny: 15 runs recorded, 0 could not be run\n"
    )  # dense; at two densities four, and three controls
    recorded = Path("benchmarks/referee/tiny.jsonl")
    before = recorded.read_bytes()
    assert main(words) == 0 and recorded.read_bytes() == before
    capsys.readouterr()
    assert main(["referee", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["settings"]
    assert told["setting"] == "tiny" and told["recorded"] == len(before.splitlines())
    Path("docs").mkdir()
    assert main(["referee", "page"]) == 0
    assert "### 20 % kept" in Path("docs/referee.md").read_text()


def test_short_runs_do_not_stand_beside_long_ones(capsys: Captured) -> None:
    assert main(["referee", "tiny", "--steps", "3"]) == 2
    assert "--records DIR" in capsys.readouterr().err
    assert not Path("benchmarks").exists()
    assert main(["referee", "tiny", "--steps", "3", "--records", "tried", "--methods", "snip", "--quiet"]) == 0
    assert all(json.loads(line)["steps"] == 3 for line in Path("tried/tiny.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tinny"], "`setting` must be one of tiny, got 'tinny'. Did you mean 'tiny'?"),
        (["tiny", "--methods", "snipp"], "got 'snipp'. Did you mean 'snip'?"),
        (["tiny", "--densities", "5"], "`density` must be in (0, 1], got 5"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_run(words: list[str], said: str, capsys: Captured) -> None:
    assert main(["referee", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path.cwd().iterdir())
