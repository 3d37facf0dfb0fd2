"""`secateur paper --clock`: steps are timed and nothing is run; what would fail is refused before the first is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from secateur.cli import main
from secateur.lab.paper import Cost, read_costs, time_cells

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the fewest turns."""
    monkeypatch.setattr("secateur.lab.paper.time_cells", partial(time_cells, budget=0.01))


def kept(name: str) -> dict[str, Cost]:
    """What was timed on this machine, the only one here."""
    (costs,) = read_costs(Path("papers") / name / "table.cost.json").values()
    return costs


def test_a_step_beside_the_dense_one(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--clock", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    title, heads, _, *rows = captured.out.splitlines()
    assert title == "Table 1"
    assert re.split(r" {2,}", heads.strip()) == ["a step, ms", "dense, ms", "dense / it", "engine"]
    found = [re.split(r" {2,}", row) for row in rows]
    assert [row[:2] for row in found] == [["LeNet", name] for name in ("SNIP", "dense", "random")]
    assert [row[-1] for row in found] == ["sparse", "torch", "sparse"] and found[1][4] == "1.0×"
    assert not Path("runs").exists() and not list(Path("papers").rglob("*.json"))


def test_costs_are_recorded_cell_by_cell_and_shown_on_the_page(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--clock", "--only", "snip", "--record", "--threads", "1"]) == 0
    first = kept(tiny)
    assert list(first) == ["LeNet · SNIP"] and first["LeNet · SNIP"].threads == 1
    assert main(["paper", tiny, "table", "--clock", "--only", "random", "--only", "dense", "--record"]) == 0
    assert list(kept(tiny)) == ["LeNet · SNIP", "LeNet · dense", "LeNet · random"]
    assert kept(tiny)["LeNet · SNIP"] == first["LeNet · SNIP"]
    assert not list(Path("papers").rglob("*.expected.json")) and not Path("runs").exists()
    assert main(["paper", tiny, "page"]) == 0
    page = Path(f"docs/papers/{tiny}.md").read_text()
    assert page.count("Milliseconds per training step") == 1
    assert "at full length" not in page  # a column of one cell is no series: its steps stand in the table


def test_steps_in_bfloat16_are_the_cell_s_too(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--clock", "--only", "snip", "--bf16", "--record"]) == 0
    (found,) = kept(tiny).values()
    assert found.experiment.bf16 and found.engine == "torch"
    assert main(["paper", tiny, "page"]) == 0
    assert "1 thread, in bfloat16:" in Path(f"docs/papers/{tiny}.md").read_text()


def test_as_json(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "all", "--clock", "--only", "snip", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["paper"]) == ("secateur.paper/1", tiny)
    assert [one["artefact"] for one in document["artefacts"]] == ["table", "figure"]
    for one in document["artefacts"]:
        found = Cost.from_json(one["costs"]["LeNet · SNIP"])
        assert (found.engine, found.threads, found.experiment.method) == ("sparse", 1, "snip")
        assert found.step > 0 and found.dense > 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seeds", "2"], "--seeds"),
        (["--steps", "2"], "--steps"),
        (["--quick"], "--quick"),
        (["--finished"], "--finished"),
        (["--jobs", "2"], "--jobs"),
        (["--on", "ray", "--seeds", "2"], "--seeds, --on ray"),
        (["--address", "here:1"], "--address"),
    ],
)
def test_options_that_speak_of_runs_are_refused(words: list[str], named: str, tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--clock", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and f"and runs nothing: leave out {named}.\n" in captured.err


def test_a_device_that_is_not_there_is_refused(tiny: str, capsys: Captured) -> None:
    assert main(["paper", tiny, "table", "--clock", "--device", "gpu"]) == 2
    assert "--device 'gpu' is not available here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace('method="random"', 'method="randm"'), r"got 'randm'\. Did you mean 'random'\?"),
        (lambda text: text.replace('replace(SNIP, method="random")', 'replace(SNIP, data="mnist")'), "MNIST was not f"),
        (lambda text: text, r"table\.cost\.json is damaged \(its format is None"),
    ],
    ids=["wrong", "missing", "damaged"],
)
def test_what_would_fail_later_is_refused_before_the_first_step(
    spoil: Callable[[str], str], message: str, tiny: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path("papers") / tiny / "__init__.py"
    text = package.read_text()
    package.write_text(spoil(text))
    if spoil(text) == text:
        (package.parent / "table.cost.json").write_text("{}")
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    monkeypatch.setattr("secateur.lab.paper.time_cells", lambda *_, **__: pytest.fail("something was timed"))
    assert main(["paper", tiny, "table", "--clock", "--record"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(message, captured.err), captured.err
