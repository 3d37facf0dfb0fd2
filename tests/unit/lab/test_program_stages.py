"""Programs that train in parts: each part an artefact, resumed to the same bits, dense ones shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.experiment import Experiment, Ramp, Recipe, dense, untrained
from secateur.lab.running import Progress, Result, phases_of, run
from secateur.masks import Masks

STEPS = 24
BASE = Experiment(
    "mlp-64-32-10", "digits", "imp", 0.2, Recipe(STEPS, Ramp(0.1, STEPS, warmup=3), batch=100, evaluate_every=6)
)
PROGRAMS = {
    "late": replace(BASE, method="late_rewinding", options=(("rounds", 2), ("step", 6))),
    "fine_tuning": replace(BASE, method="fine_tuning", options=(("rounds", 2), ("retrain", 10))),
    "weights": replace(BASE, method="weight_rewinding", options=(("rounds", 2), ("retrain", 10))),
    "rates": replace(BASE, method="learning_rate_rewinding", options=(("rounds", 2), ("retrain", 10))),
    "scratch_e": replace(BASE, method="scratch_e"),
    "scratch_b": replace(BASE, method="scratch_b", options=(("most", 1.5),)),
    "early_bird": replace(BASE, method="early_bird", options=(("epoch", 4), ("patience", 2))),
    "prac": replace(BASE, method="prac", options=(("epoch", 6), ("rounds", 3), ("patience", 2))),
    "deconstructed": replace(BASE, method="deconstructed", options=(("rounds", 2),)),
}
ENDED = {"fine_tuning", "weights", "rates", "scratch_e", "scratch_b"}


class CutError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def timeless(result: Result) -> dict[str, object]:
    return {key: value for key, value in result.facts.items() if key not in {"seconds", "machine"}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_cut_at_every_level_ends_in_the_same_bits(name: str, digits: data.Dataset, tmp_path: Path) -> None:
    wanted = PROGRAMS[name]
    whole = run(wanted, root=tmp_path / "whole", dataset=digits)
    levels: set[str] = set()

    def once_at_each(news: Progress) -> None:
        where = f"{news.experiment.method} {news.stage}"
        if news.step >= 2 and news.stage != "done" and where not in levels:
            levels.add(where)
            raise CutError

    while True:
        try:
            found = run(wanted, root=tmp_path / "cut", dataset=digits, save_every=0.0, on_progress=once_at_each)
            break
        except CutError:
            continue
    assert len(levels) >= 2 and timeless(found) == timeless(whole)
    files = [(each.directory / "weights.safetensors").read_bytes() for each in (found, whole)]
    assert files[0] == files[1]
    masks = Masks.load(whole.directory / "masks.safetensors")
    weights = load_file(whole.directory / "weights.safetensors")
    assert all(not bool(weights[n][~mask].any()) for n, mask in masks.items())
    assert abs(masks.kept - 0.2 * masks.numel) <= 1 and not list(whole.directory.glob("level-*"))
    assert [phase.__name__ for phase in phases_of(wanted)] == (
        ["train_by_program"] if name in ENDED else ["prune_by_program", "train_kept"]
    )


def trained_stages(wanted: Experiment, digits: data.Dataset, root: Path) -> list[str]:
    news: list[Progress] = []
    run(wanted, root=root, dataset=digits, on_progress=news.append)
    return list(dict.fromkeys(one.stage for one in news if one.step and one.stage != "done"))


def test_the_dense_training_is_computed_once_for_all(digits: data.Dataset, tmp_path: Path) -> None:
    assert trained_stages(PROGRAMS["weights"], digits, tmp_path) == ["level 1", "level 2", "level 3", "level 4"]
    assert trained_stages(PROGRAMS["rates"], digits, tmp_path) == ["level 3", "level 4"]
    assert trained_stages(PROGRAMS["fine_tuning"], digits, tmp_path) == ["level 3", "level 4"]
    twin = dense(BASE, seed=0)
    assert len(list((tmp_path / twin.name).glob("stage-*"))) == 2
    assert trained_stages(PROGRAMS["deconstructed"], digits, tmp_path) == ["train", "level 2"]  # the dense run itself
    assert "level 1" not in trained_stages(replace(BASE, options=(("rounds", 2),)), digits, tmp_path)


def test_a_training_in_two_parts_is_the_whole_one(digits: data.Dataset, tmp_path: Path) -> None:
    run(PROGRAMS["weights"], root=tmp_path, dataset=digits)
    run(dense(BASE, seed=0), root=tmp_path, dataset=digits)
    place = tmp_path / dense(BASE, seed=0).name
    (last,) = place.glob("stage-14-24-*")
    parts, whole = load_file(last), load_file(place / "weights.safetensors")
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert any(name.startswith("optimizer/") for name in parts)


def test_late_rewinding_to_the_start_is_imp(digits: data.Dataset, tmp_path: Path) -> None:
    late = replace(PROGRAMS["late"], options=(("rounds", 2), ("step", 0)))
    one = run(late, root=tmp_path, dataset=digits)
    two = run(replace(BASE, options=(("rounds", 2),)), root=tmp_path, dataset=digits)
    files = [(each.directory / "weights.safetensors").read_bytes() for each in (one, two)]
    assert files[0] == files[1]


def test_weights_that_survive_start_where_they_were(digits: data.Dataset, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(news: Progress) -> None:
        start = tmp_path / PROGRAMS["late"].name / "start.safetensors"
        if news.stage == "train" and news.step and start.exists():
            seen.append(load_file(start))

    run(PROGRAMS["late"], root=tmp_path, dataset=digits, on_progress=look)
    (early,) = (tmp_path / dense(BASE, seed=0).name).glob("stage-0-6-*")
    at = load_file(early)
    masks = Masks.load(tmp_path / PROGRAMS["late"].name / "masks.safetensors")
    assert all(torch.equal(seen[0][name], at[name] * mask) for name, mask in masks.items())
    assert not torch.equal(at["fc1.weight"], untrained(BASE).state_dict()["fc1.weight"])


def test_steps_outside_of_training_are_refused_before_anything_is_trained(digits: data.Dataset, tmp_path: Path) -> None:
    for options in ((("step", STEPS + 1),), (("step", -1),)):
        with pytest.raises(SecateurError, match=r"`step` must be a step of training, from 0 to steps=24, got"):
            run(replace(BASE, method="late_rewinding", options=options), root=tmp_path, dataset=digits)
    with pytest.raises(SecateurError, match=r"`retrain` must be a step of training"):
        run(replace(BASE, method="weight_rewinding", options=(("retrain", 30),)), root=tmp_path, dataset=digits)
    assert not list(tmp_path.glob("*/*.safetensors"))
