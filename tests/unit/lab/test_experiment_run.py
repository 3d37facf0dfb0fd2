"""Stages are skipped when their artefact exists; a run that was cut ends in the bits it would have ended in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.experiment import Adam, Constant, Engine, Experiment, Ramp, Recipe, untrained
from secateur.lab.repeat import ArtefactError, BusyError, locked
from secateur.lab.running import (
    DivergedError,
    Progress,
    Result,
    Trail,
    run,
    state_of,
    why_diverged,
)
from secateur.masks import Masks

STEPS = 24
BASE = Experiment(
    "lenet-300-100", "digits", "snip", 0.05, Recipe(STEPS, Ramp(0.1, STEPS, warmup=3), batch=50, evaluate_every=7)
)


class CutError(Exception):
    """Stands for the end of the process."""


def cut_at(stage: str, step: int) -> Callable[[Progress], None]:
    def tell(news: Progress) -> None:
        if news.stage == stage and news.step == step:
            raise CutError

    return tell


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def timeless(result: Result) -> dict[str, object]:
    return {key: value for key, value in result.facts.items() if key not in {"seconds", "machine"}}


@pytest.mark.parametrize(
    "experiment",
    [
        BASE,
        replace(BASE, engine=Engine.TORCH),
        replace(BASE, recipe=replace(BASE.recipe, optimizer=Adam(), rate=Constant(1e-3))),
        replace(BASE, recipe=replace(BASE.recipe, optimizer=Adam(), rate=Constant(1e-3)), engine=Engine.TORCH),
        replace(BASE, redraw=True, biases=True, score_in_eval=True),
        replace(BASE, model="lstm-s", recipe=replace(BASE.recipe, steps=8)),
        replace(BASE, model="wrn-10-1", recipe=replace(BASE.recipe, steps=4, batch=16, augment=True)),
        replace(BASE, method="dense", density=1.0),
    ],
    ids=["sgd", "sgd torch", "adam", "adam torch", "paper protocol", "lstm", "batch norm", "dense"],
)
def test_a_cut_run_ends_in_the_same_bits(
    experiment: Experiment, digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Digits have no augmentation of their own.
    known = data.catalogue()
    known["digits"] = replace(known["digits"], augment=data.nudge)
    monkeypatch.setattr(data, "catalogue", lambda: known)
    digits, steps = replace(digits, augment=data.nudge), experiment.recipe.steps
    whole = run(experiment, root=tmp_path / "whole", dataset=digits)
    for step in (1, steps // 2, steps - 1, steps):
        with pytest.raises(CutError):
            run(
                experiment,
                root=tmp_path / "cut",
                dataset=digits,
                save_every=0.0,
                on_progress=cut_at("train", step),
            )
    cut = run(experiment, root=tmp_path / "cut", dataset=digits)
    assert timeless(cut) == timeless(whole)
    one, other = (result.directory / "weights.safetensors" for result in (whole, cut))
    assert one.read_bytes() == other.read_bytes()


def test_pruned_weights_stay_zero_and_masks_are_exact(digits: data.Dataset, tmp_path: Path) -> None:
    result = run(BASE, root=tmp_path, dataset=digits)
    masks = Masks.load(result.directory / "masks.safetensors")
    weights = load_file(result.directory / "weights.safetensors")
    assert masks.kept == 2_510  # floor(0.05 · 50,200 + 0.5)
    for name, mask in masks.items():
        assert not weights[name][~mask].any()
        assert weights[name][mask].all()


def test_a_finished_run_is_read_and_not_repeated(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(BASE, root=tmp_path, dataset=digits)
    stamps = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    monkeypatch.setattr(data, "load", lambda *a, **k: pytest.fail("the data were loaded"))
    again = run(BASE, root=tmp_path)
    assert again == first and again.facts == first.facts
    assert stamps == {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}


def test_masks_on_disk_are_not_computed_again(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CutError):
        run(BASE, root=tmp_path, dataset=digits, on_progress=cut_at("train", 1))
    directory = tmp_path / BASE.name
    assert state_of(directory) == "pruned"
    monkeypatch.setattr("secateur.lab.running._phases.prune", lambda *a, **k: pytest.fail("scored again"))
    assert run(BASE, root=tmp_path, dataset=digits).directory == directory
    assert state_of(directory) == "finished"


def test_a_run_that_diverged_says_so_until_it_has_finished(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / BASE.name

    def diverge(*_: object, **__: object) -> Trail:
        raise DivergedError("training diverged: the loss is nan after step 3.")

    with monkeypatch.context() as patch:
        patch.setattr("secateur.lab.running._work.train", diverge)
        with pytest.raises(DivergedError):
            run(BASE, root=tmp_path, dataset=digits)
    assert state_of(directory) == "diverged"
    assert why_diverged(directory) == "training diverged: the loss is nan after step 3."
    run(BASE, root=tmp_path, dataset=digits)
    assert state_of(directory) == "finished" and not (directory / "failure.json").exists()
    (directory / "failure.json").write_text('{"format": "secateur.failure/1"}')
    with pytest.raises(ArtefactError, match=r"failure\.json is damaged"):
        why_diverged(directory)


def test_progress_tells_each_stage(digits: data.Dataset, tmp_path: Path) -> None:
    news: list[Progress] = []
    run(BASE, root=tmp_path, dataset=digits, on_progress=news.append)
    assert news[0].stage == "prune" and news[-1].stage == "done"
    training = [one for one in news if one.stage == "train"]
    assert [one.step for one in training] == list(range(1, STEPS + 1))
    assert all(one.steps == STEPS and one.loss is not None and one.density == 0.05 for one in training)
    assert training[5].error is None and training[6].error is not None  # first evaluated after step 7


def test_result_holds_the_facts(digits: data.Dataset, tmp_path: Path) -> None:
    facts = run(BASE, root=tmp_path, dataset=digits).facts
    assert facts["format"] == "secateur.result/1" and facts["run"] == BASE.name
    assert Experiment.from_json(facts["experiment"]) == BASE
    evaluations = facts["evaluations"]
    assert [one["step"] for one in evaluations] == [7, 14, 21, 24]
    assert facts["test_error"] == evaluations[-1]["test_error"]
    assert facts["best"]["test_error"] == min(one["test_error"] for one in evaluations)
    assert facts["selected"]["validation_error"] == min(one["validation_error"] for one in evaluations)
    assert facts["epochs"] == pytest.approx(24 * 50 / len(digits.train), abs=1e-3)
    assert [point["step"] for point in facts["curve"]] == list(range(1, 25))
    assert sum(layer["kept"] for layer in facts["layers"]) == facts["kept"] == 2_510
    # 50,610 parameters; 2,510 kept weights and 410 biases in fp32, and one bit for each of 50,200 weights
    assert facts["bytes"] == {"dense": 4 * 50_610, "packed": 4 * (2_510 + 410) + 50_200 // 8}
    assert facts["engine"]["name"] in {"torch", "sparse"} and facts["engine"]["why"]
    assert set(facts["seconds"]) == {"data", "prune", "train", "evaluate"}
    assert {"secateur", "torch", "python", "cpu", "threads", "device"} <= set(facts["machine"])


def test_dense_has_no_masks(digits: data.Dataset, tmp_path: Path) -> None:
    result = run(replace(BASE, method="dense", density=1.0), root=tmp_path, dataset=digits)
    assert not (result.directory / "masks.safetensors").exists()
    assert result.facts["kept"] == result.facts["prunable"] == 50_200
    assert result.facts["bytes"] == {"dense": 4 * 50_610, "packed": 4 * 50_610}


def test_global_random_state_is_left_as_found(digits: data.Dataset, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    run(BASE, root=tmp_path, dataset=digits)
    assert torch.equal(before, torch.random.get_rng_state())


def test_paper_protocol_trains_a_second_draw_without_biases(digits: data.Dataset, tmp_path: Path) -> None:
    paper = replace(BASE, redraw=True, biases=True, score_in_eval=True)
    scored, trained = untrained(paper, scoring=True), untrained(paper)
    first, second = (next(model.parameters()) for model in (scored, trained))
    assert not torch.equal(first, second)
    assert torch.equal(second, next(untrained(BASE).parameters()))  # equal terms: what is trained is the same
    result = run(paper, root=tmp_path, dataset=digits)
    assert result.facts["prunable"] == 50_610 and result.facts["kept"] == 2_531  # floor(2530.5 + 0.5)
    masks = Masks.load(result.directory / "masks.safetensors")
    assert not any(mask.any() for name, mask in masks.items() if name.endswith("bias"))


def test_diverged_training_is_an_error(digits: data.Dataset, tmp_path: Path) -> None:
    wild = replace(BASE, recipe=Recipe(STEPS, Constant(1e30), batch=50))
    with pytest.raises(SecateurError, match=r"training diverged: the loss is nan after step \d+\. Lower the learning"):
        run(wild, root=tmp_path, dataset=digits)
    assert not (tmp_path / wild.name / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "snipp"}, r"`method` must be one of dense, .*, got 'snipp'\. Did you mean 'snip'\?"),
        ({"data": "mnits"}, r"`data` must be one of digits, .*, got 'mnits'\. Did you mean 'mnist'\?"),
        ({"model": "lenet"}, r"got 'lenet'"),
        ({"options": (("roundz", 5),), "method": "force"}, r"no option 'roundz'.*Did you mean 'rounds'\?"),
        ({"options": (("rounds", "many"),), "method": "force"}, r"rounds of force must be of type int, got 'many'"),
        ({"options": (("rounds", True),), "method": "force"}, r"rounds of force must be of type int, got True"),
        ({"options": (("a", 1),), "method": "dense", "density": 1.0}, "dense has none"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_written(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SecateurError, match=message):
        run(replace(BASE, **change), root=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_two_processes_never_share_a_run(digits: data.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        locked(tmp_path / BASE.name),
        pytest.raises(BusyError, match="is being worked on by another process"),
    ):
        run(BASE, root=tmp_path, dataset=digits)
    assert run(BASE, root=tmp_path, dataset=digits).facts["run"] == BASE.name


@pytest.fixture
def half_done(digits: data.Dataset, tmp_path: Path) -> Path:
    """A run cut in training, with every artefact but the last two."""
    with pytest.raises(CutError):
        run(BASE, root=tmp_path, dataset=digits, save_every=0.0, on_progress=cut_at("train", 9))
    return tmp_path / BASE.name


@pytest.mark.parametrize("name", ["experiment.json", "prune.json", "masks.safetensors", "checkpoint.safetensors"])
@pytest.mark.parametrize("damage", [lambda old: old[: len(old) // 2], lambda old: b"", lambda old: b"\xff" + old])
def test_damaged_artefacts_are_named_with_the_way_out(
    half_done: Path, digits: data.Dataset, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = half_done / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match=rf"{name} is damaged \(.*\)\. Delete it and run again") as problem:
        run(BASE, root=half_done.parent, dataset=digits)
    assert str(path) in str(problem.value)
    path.unlink()  # the way out; without prune.json its masks are next
    if name == "prune.json":
        (half_done / "masks.safetensors").unlink()
    assert run(BASE, root=half_done.parent, dataset=digits).facts["run"] == BASE.name


def test_a_damaged_result_is_named(digits: data.Dataset, tmp_path: Path) -> None:
    path = run(BASE, root=tmp_path, dataset=digits).directory / "result.json"
    path.write_text(json.dumps({"test_error": 0.0}))
    with pytest.raises(ArtefactError, match=r"result.json is damaged \(KeyError: 'experiment'\)\. Delete it"):
        run(BASE, root=tmp_path, dataset=digits)


def test_foreign_artefacts_are_refused(half_done: Path, digits: data.Dataset, tmp_path: Path) -> None:
    other = replace(BASE, seed=1)
    with pytest.raises(CutError):
        run(other, root=tmp_path, save_every=0.0, on_progress=cut_at("train", 9))
    theirs = tmp_path / other.name
    for name, message in (
        ("checkpoint.safetensors", "it belongs to run"),
        ("masks.safetensors", r"it is not the one that prune\.json speaks of"),
        ("experiment.json", "speaks of another experiment"),
    ):
        mine = half_done / name
        kept = mine.read_bytes()
        mine.write_bytes((theirs / name).read_bytes())
        with pytest.raises(ArtefactError, match=message):
            run(BASE, root=half_done.parent, dataset=digits)
        mine.write_bytes(kept)
    assert run(BASE, root=half_done.parent, dataset=digits).facts["run"] == BASE.name
