"""A small sheet from the first run to the page: equal terms, controls with the method's layers, nothing run twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from secateur._base.errors import SecateurError
from secateur._catalogue import catalogue
from secateur.lab.comparing import Comparison, compare
from secateur.lab.experiment import Constant, Experiment, Recipe
from secateur.lab.referee import (
    SETTINGS,
    Line,
    Plan,
    Setting,
    controls,
    fill,
    keep_lines,
    key,
    line_of,
    plans,
    read_lines,
    setting,
    write_page,
)
from secateur.lab.repeat import ArtefactError

RECIPE = Recipe(8, Constant(0.1), batch=50, evaluate_every=4)
SLIM = MappingProxyType({0.1: "mlp-64-10-10"})
TINY = Setting("tiny", "Tiny on digits", "mlp-64-30-20-10", "digits", RECIPE, (0.1,), 2, SLIM)
DAMAGE = {
    b"{": "line 1",
    b'{"method": 3, "of": "", "asked": null, "seed": 0}\n': "ValueError",
    b'{"method": "snip"}\n': "KeyError",
    b'{"method": "snip", "of": "", "asked": null, "seed": 0, "errors": 1}\n': "TypeError",
}
METHODS = ("snip", "wanda", "l1_filters", "slimming", "l0")


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Line], list[Experiment]]:
    folder = tmp_path_factory.mktemp("referee")
    ran: list[Experiment] = []

    def run_all(experiments: list[Experiment]) -> Comparison:
        ran.extend(experiments)
        return compare(experiments, root=folder / "runs", threads=1)

    path = folder / "tiny.jsonl"
    terms = {"methods": METHODS, "densities": (0.1,), "root": folder / "runs"}
    first = fill(TINY, path, run_all, seeds=1, **terms)  # type: ignore[arg-type]
    count = len(ran)
    assert fill(TINY, path, run_all, seeds=1, **terms) == first and len(ran) == count  # type: ignore[arg-type]
    found = fill(TINY, path, run_all, seeds=2, **terms)  # type: ignore[arg-type]
    assert [line for line in found if line.seed == 0] == first  # a second seed runs itself alone
    assert {one.seed for one in ran[count:]} == {1}
    return path, found, ran


def test_all_are_trained_alike(sheet: tuple[Path, list[Line], list[Experiment]]) -> None:
    _, lines, ran = sheet
    assert {one.recipe for one in ran} == {RECIPE}
    assert {one.pretrain for one in ran if one.method in ("wanda", "l1_filters")} == {RECIPE}
    methods = {line.method for line in lines}
    assert methods == {
        *METHODS,
        "magnitude",
        "random",
        "dense",
        "smaller dense",
        "magnitude, trained",
        "random, same layers",
    }


def test_a_control_has_the_layers_of_its_method(sheet: tuple[Path, list[Line], list[Experiment]]) -> None:
    _, lines, ran = sheet
    known = {key(line): line for line in lines}
    drawn = [line for line in lines if line.method == "random, same layers"]
    assert {line.of for line in drawn} == {"snip", "wanda", "l1_filters", "l0", "magnitude", "magnitude, trained"}
    for line in drawn:
        assert line.layers == known[line.of, "", line.asked, line.seed].layers
    of_snip = next(one for one in ran if one.layers and one.seed == 1)
    assert of_snip.method == "random" and of_snip.pretrain is None


def test_work_counts_all_training_in_dense_steps(sheet: tuple[Path, list[Line], list[Experiment]]) -> None:
    _, lines, _ = sheet
    work = {line.method: line.work for line in lines if line.seed == 0 and line.error is not None}
    assert (work["dense"], work["snip"], work["l0"]) == (8.0, 0.8, 8.0)  # 8 steps; with a tenth of the weights; acting
    assert work["wanda"] == pytest.approx(8 + 8 * 0.1, abs=0.06)
    seconds = {line.method: line.train for line in lines if line.seed == 0 and line.error is not None}
    assert seconds["wanda"] > 0


@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        # One dense training that the program asks for, and the ticket's own, of which each step counts by the weights.
        ("imp", {"rounds": 1}, 8 + 8 * 0.1),
        # Programs that train to the end, in parts.
        ("late_rewinding", {"rounds": 1}, None),
        ("fine_tuning", {}, None),
    ],
)
def test_work_of_programs_is_what_they_asked_for(
    method: str, options: dict[str, int], steps: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.lab.running import _levels

    asked: list[int] = []
    train = _levels.Levels.__call__

    def watched(self: Any, model: Any, stage: Any = None) -> Any:
        asked.append(RECIPE.steps if stage is None else stage.stop - stage.start)
        return train(self, model, stage)

    monkeypatch.setattr(_levels.Levels, "__call__", watched)
    base = Experiment(TINY.model, "digits", method, 0.1, RECIPE).with_options(options)
    plan = Plan(method, 0.1, base)
    comparison = compare([base], root=tmp_path, threads=1)
    line = line_of(plan, comparison.rows[0].results[0], {})
    complete = "complete" in catalogue()[method].tags
    assert asked and line.work == pytest.approx(sum(asked) + (0 if complete else 8 * 0.1), abs=0.06)
    assert steps is None or line.work == pytest.approx(steps, abs=0.06)


def test_what_cannot_be_run_says_why_and_is_not_tried_again(sheet: tuple[Path, list[Line], list[Experiment]]) -> None:
    path, lines, _ = sheet
    (first, second) = (line for line in lines if line.method == "slimming")
    assert first.error is None and first.failure == second.failure and "feeds a batch norm" in first.failure
    assert len(path.read_text().splitlines()) == len(lines)


def test_lines_are_read_back_equal_and_damage_is_named(
    sheet: tuple[Path, list[Line], list[Experiment]], tmp_path: Path
) -> None:
    path, lines, _ = sheet
    assert list(read_lines(path).values()) == lines
    copied = tmp_path / "copy.jsonl"
    keep_lines(copied, reversed(lines))
    assert copied.read_bytes() == path.read_bytes()  # the order is fixed
    for damage, why in DAMAGE.items():
        copied.write_bytes(damage)
        with pytest.raises(ArtefactError, match=rf"copy\.jsonl is damaged.*{why}"):
            keep_lines(copied, lines)
        assert copied.read_bytes() == damage


def test_the_page(sheet: tuple[Path, list[Line], list[Experiment]], tmp_path: Path) -> None:
    _, lines, _ = sheet
    text = write_page(tmp_path / "referee.md", {TINY: lines, SETTINGS[0]: []}).read_text()
    assert "## Tiny on digits\n\n8 steps of 50 examples" in text and "### 10 % kept\n" in text
    assert "### 10 % kept, whole units and blocks\n" in text and "### Methods that decide how much stays\n" in text
    assert f"## {SETTINGS[0].title}\n\nNot measured yet." in text
    assert "* `slimming`: none of the prunable layers" in text and "(2 runs)" in text
    rows = {
        row.split("|")[1].strip(): [part.strip() for part in row.split("|")[2:-1]]
        for row in text.splitlines()
        if "|" in row
    }
    snip, wanda = rows["`snip`"], rows["`wanda`"]
    errors = {(line.method, line.of, line.seed): 100 * (line.error or 0.0) for line in lines}
    for row, name, base in ((snip, "snip", "magnitude"), (wanda, "wanda", "magnitude, trained")):
        mean = sum(errors[name, "", seed] for seed in (0, 1)) / 2
        assert row[2].startswith(f"{mean:.2f} ± ")
        against = sum(errors[name, "", seed] - errors[base, "", seed] for seed in (0, 1)) / 2
        assert row[3].strip("*") == f"{against:+.2f}"
        own = sum(errors[name, "", seed] - errors["random, same layers", name, seed] for seed in (0, 1)) / 2
        assert row[5].strip("*") == f"{own:+.2f}"
    assert "*smaller dense* (mlp-64-10-10)" in rows


def test_empty_layers_and_random_pruning_have_no_control() -> None:
    plan = next(plan for plan in plans(TINY, ["snip"], (0.1,), 1) if plan.method == "snip")
    assert controls(plan, [(3, 10), (0, 10)]) is None and controls(plan, []) is None
    assert controls(replace(plan, method="random"), [(3, 10)]) is None
    drawn = controls(plan, [(3, 10), (5, 10), (1, 20)])
    assert drawn is not None and drawn.experiment.layers == (0.3, 0.5, 0.05) and drawn.experiment.density == 9 / 40


def test_settings_are_known_and_their_smaller_networks_have_no_fewer_weights() -> None:
    from secateur.lab import models

    assert setting("lstm-mnist").model == "lstm-s"
    with pytest.raises(SecateurError, match=r"`setting` must be one of .*, got 'lenet-mnist'\. Did you mean"):
        setting("lenet-mnist")
    for one in SETTINGS:
        whole = models.count(models.skeleton(one.model)).weights
        for density, slim in one.slim.items():
            weights = models.count(models.skeleton(slim)).weights
            assert density * whole <= weights < 1.06 * density * whole, (one.name, density)


def test_the_record_is_json_that_others_can_read(sheet: tuple[Path, list[Line], list[Experiment]]) -> None:
    for text in sheet[0].read_text().splitlines():
        line = json.loads(text)
        assert {"method", "of", "asked", "seed"} <= set(line) and ("error" in line) != ("failure" in line)
