"""Comparisons: equal terms, statistics by hand, failures that do not spread, processes that change no bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur._base.errors import SecateurError
from secateur.lab.comparing import Outcomes, Places, compare, deviation, grid
from secateur.lab.experiment import Constant, Experiment, Recipe
from secateur.lab.models import Initial
from secateur.lab.running import OnProgress, Progress

BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(10, Constant(0.05), batch=50))


def test_grid_is_on_equal_terms() -> None:
    paper = replace(BASE, redraw=True, biases=True, score_in_eval=True, score_batch=20, initialiser=Initial.VS_H)
    experiments = grid(paper, ["snip", "random", "dense"], range(3, 5))
    assert [(one.method, one.seed) for one in experiments] == [
        ("snip", 3),
        ("random", 3),
        ("dense", 3),
        ("snip", 4),
        ("random", 4),
        ("dense", 4),
    ]
    assert len({(one.recipe, one.model, one.data, one.initialiser) for one in experiments}) == 1
    assert experiments[2] == grid(replace(BASE, initialiser=Initial.VS_H), ["dense"], [3])[0]  # shared by all protocols


def test_rows_and_statistics(tmp_path: Path) -> None:
    news: list[Progress] = []
    comparison = compare(grid(BASE, ["snip", "dense"], range(3)), root=tmp_path, on_progress=news.append)
    snip, dense = comparison.rows
    assert not comparison.failures
    assert [result.experiment.seed for result in snip.results] == [0, 1, 2]
    errors = [result.facts["test_error"] for result in snip.results]
    assert snip.errors() == errors
    mean = sum(errors) / 3
    assert snip.mean_of(lambda result: result.test_error) == pytest.approx(mean)
    assert deviation(errors) == pytest.approx((sum((error - mean) ** 2 for error in errors) / 2) ** 0.5)
    assert deviation(errors[:1]) is None
    assert dense.experiment.density == 1.0 and snip.experiment.density == 0.05
    assert [one.experiment.method for one in news if one.stage == "done"] == ["snip", "dense"] * 3


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    wild = replace(BASE, recipe=Recipe(10, Constant(1e30), batch=50))
    comparison = compare([wild, BASE], root=tmp_path)
    assert list(comparison.failures) == [wild] and "training diverged" in comparison.failures[wild]
    assert [row.experiment for row in comparison.rows] == [BASE]


def test_processes_change_no_bit(tmp_path: Path) -> None:
    experiments = [*grid(BASE, ["snip", "random"], [0]), replace(BASE, recipe=Recipe(10, Constant(1e30), batch=50))]
    news: list[Progress] = []
    one = compare(experiments, root=tmp_path / "one")
    two = compare(experiments, root=tmp_path / "two", jobs=2, on_progress=news.append)
    assert len(one.rows) == len(two.rows) == 2 and one.failures == two.failures and len(one.failures) == 1
    for left, right in zip(one.rows, two.rows, strict=True):
        weights = [row.results[0].directory / "weights.safetensors" for row in (left, right)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sorted(one.experiment.method for one in news) == ["random", "snip", "snip"]


def test_threads_are_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    (row,) = compare([replace(BASE, seed=9)], root=tmp_path, threads=before + 1).rows
    assert row.results[0].facts["machine"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_jobs_and_threads_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="`threads` must be at least 1, got 0"):
        compare([BASE], root=tmp_path, threads=0)
    with pytest.raises(SecateurError, match="`jobs` must be at least 1, got 0"):
        compare([BASE], root=tmp_path, jobs=0)


def test_who_runs_them_is_a_function(tmp_path: Path) -> None:
    asked: list[tuple[Experiment, Places]] = []

    def runner(experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None) -> Outcomes:
        for experiment in reversed(experiments):
            asked.append((experiment, places))
            yield experiment, f"no luck with seed {experiment.seed}"

    comparison = compare(grid(BASE, ["snip"], [4, 5]), root=tmp_path, save_every=3.0, runner=runner)
    assert [experiment.seed for experiment, _ in asked] == [5, 4]
    assert {places for _, places in asked} == {Places(tmp_path, None, "cpu", 3.0)}
    assert list(comparison.failures.values()) == ["no luck with seed 4", "no luck with seed 5"]
    with pytest.raises(SecateurError, match="`jobs` and `threads` are not for a `runner` of your own, got 2 and None"):
        compare([BASE], root=tmp_path, runner=runner, jobs=2)
