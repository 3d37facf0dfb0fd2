"""A run is a sequence of phases, chosen by what the catalogue says of its method; each is an artefact that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lab_cases import add_methods
from secateur import methods
from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.axes.repair import redraw
from secateur.lab import data
from secateur.lab.comparing import compare, grid
from secateur.lab.experiment import (
    Constant,
    Engine,
    Experiment,
    Ramp,
    Recipe,
    Sanity,
    arguments_of,
    check,
    dense,
    pretraining,
)
from secateur.lab.repeat import ArtefactError
from secateur.lab.running import Progress, Result, phases_of, run
from secateur.masks import Masks

STEPS = 24
BASE = Experiment(
    "lenet-300-100", "digits", "magnitude", 0.1, Recipe(STEPS, Ramp(0.1, STEPS, warmup=3), batch=50, evaluate_every=7)
)
EVERY = (("every", 5),)
ONLINE = {
    "agp": replace(BASE, method="agp", options=EVERY),
    "set": replace(BASE, method="set", options=EVERY),
    "granet": replace(BASE, method="granet"),
    "dsr": replace(BASE, method="dsr", options=(("threshold", 0.01),)),
    "deep_r": replace(BASE, method="deep_r"),
    "rigl": replace(BASE, method="rigl", options=EVERY),
    "dns": replace(BASE, method="dns", density=1.0),
    "l0": replace(BASE, method="l0", density=1.0, options=(("strength", 0.001),)),
}
IMP = replace(BASE, method="imp", options=(("rounds", 3),))


class CutError(Exception):
    """Stands for the end of the process."""


def cut_at(stage: str, step: int) -> Callable[[Progress], None]:
    def tell(news: Progress) -> None:
        if (news.stage, news.step) == (stage, step):
            raise CutError

    return tell


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def timeless(result: Result) -> dict[str, object]:
    return {key: value for key, value in result.facts.items() if key not in {"seconds", "machine"}}


def same(one: Result, other: Result) -> bool:
    files = [(result.directory / "weights.safetensors").read_bytes() for result in (one, other)]
    return timeless(one) == timeless(other) and files[0] == files[1]


def names(experiment: Experiment) -> list[str]:
    return [phase.__name__ for phase in phases_of(experiment)]


def test_what_the_catalogue_says_of_a_method_decides_its_phases() -> None:
    assert names(BASE) == ["prune_once", "train_kept"]
    assert names(dense(BASE, seed=0)) == ["train_kept"]
    assert names(replace(BASE, pretrain=BASE.recipe)) == ["pretrain", "prune_once", "train_kept"]
    assert names(IMP) == ["prune_by_program", "train_kept"]
    assert {tuple(names(one)) for one in ONLINE.values()} == {("train_pruning",)}
    assert names(replace(ONLINE["agp"], pretrain=BASE.recipe)) == ["pretrain", "train_pruning"]
    (lwc,) = grid(BASE, ["lwc"], [0])  # is for trained networks, and its name says that it was given one
    assert lwc.pretrain == BASE.recipe and lwc.density == 1 and lwc.hash != replace(lwc, pretrain=None).hash


@pytest.mark.parametrize("experiment", ONLINE.values(), ids=ONLINE)
def test_a_method_that_acts_during_training_goes_on_to_the_same_bits(
    experiment: Experiment, digits: data.Dataset, tmp_path: Path
) -> None:
    state, whole = torch.random.get_rng_state(), run(experiment, root=tmp_path / "whole", dataset=digits)
    assert torch.equal(state, torch.random.get_rng_state())
    for step in (1, STEPS // 2, STEPS - 1, STEPS):
        with pytest.raises(CutError):
            places = {"root": tmp_path / "cut", "dataset": digits, "save_every": 0.0}
            run(experiment, **places, on_progress=cut_at("train", step))  # type: ignore[arg-type]
    assert same(run(experiment, root=tmp_path / "cut", dataset=digits), whole)
    masks = Masks.load(whole.directory / "masks.safetensors")
    weights = load_file(whole.directory / "weights.safetensors")
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
    assert not [name for name in weights if "gate" in name]
    assert whole.facts["kept"] == masks.kept and whole.facts["engine"]["name"] == "torch"
    assert whole.facts["density"] <= whole.facts["exploration"] <= 1
    assert whole.facts["evaluations"][-1]["step"] == STEPS and len(whole.facts["evaluations"]) == 4


def test_the_density_falls_while_training_goes_on(digits: data.Dataset, tmp_path: Path) -> None:
    news: list[Progress] = []
    run(ONLINE["agp"], root=tmp_path, dataset=digits, on_progress=news.append)
    densities = [one.density or 0.0 for one in news if one.stage == "train"]
    assert densities == sorted(densities, reverse=True) and densities[0] == 1.0
    assert densities[17:STEPS] == [densities[-1]] * (STEPS - 17)  # the last cut is after ¾ of the steps
    # cut after steps 5, 10, 15 and 18
    assert densities[-1] == pytest.approx(0.1, abs=1e-3) and len(set(densities)) == 5


def test_the_lab_gives_a_clock_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments_of(ONLINE["agp"]) == {"density": 0.1, "end": 18, "every": 5}
    assert arguments_of(ONLINE["rigl"])["until"] == 18
    assert arguments_of(replace(ONLINE["rigl"], options=(("until", 20),)))["until"] == 20
    granet = arguments_of(replace(BASE, method="granet"))
    assert granet == {"density": 0.1, "end": 12, "until": 18, "every": 1}  # the last cut after half, ten turns at least
    assert arguments_of(replace(BASE, method="itop", options=(("until", 24),)))["every"] == 2
    long = replace(BASE, method="itop", recipe=replace(BASE.recipe, steps=40_000))
    assert arguments_of(long)["every"] == 1500  # the method's own
    add_methods(monkeypatch, lasting=lambda density, *, steps: methods.magnitude(density))
    assert arguments_of(replace(BASE, method="lasting")) == {"density": 0.1, "steps": 24}


def stage_of(news: Progress) -> str:  # a program's first training is the dense run
    return "dense" if news.experiment.method == "dense" else news.stage


@pytest.mark.parametrize("stage", ["dense", "level 2", "level 3", "train"])
def test_a_program_goes_on_to_the_same_bits(stage: str, digits: data.Dataset, tmp_path: Path) -> None:
    whole = run(IMP, root=tmp_path / "whole", dataset=digits)

    def cut(news: Progress) -> None:
        if (stage_of(news), news.step) == (stage, STEPS // 2):
            raise CutError

    with pytest.raises(CutError):
        run(IMP, root=tmp_path / "cut", dataset=digits, save_every=0.0, on_progress=cut)
    news: list[Progress] = []
    assert same(run(IMP, root=tmp_path / "cut", dataset=digits, on_progress=news.append), whole)
    trained = [stage_of(one) for one in news if one.step and one.stage != "done"]
    assert trained[0] == stage  # what was done before is not repeated
    assert sorted(path.name for path in whole.directory.iterdir() if path.name[0] != ".") == [
        "experiment.json",
        "masks.safetensors",
        "prune.json",
        "result.json",
        "weights.safetensors",
    ]


def test_a_program_starts_from_the_dense_run_that_is_there(digits: data.Dataset, tmp_path: Path) -> None:
    alone = run(IMP, root=tmp_path / "alone", dataset=digits)
    run(dense(IMP, seed=0), root=tmp_path / "both", dataset=digits)
    news: list[Progress] = []
    assert same(run(IMP, root=tmp_path / "both", dataset=digits, on_progress=news.append), alone)
    assert {one.stage for one in news if one.step} == {"level 2", "level 3", "train", "done"}


def test_levels_of_other_weights_are_refused(digits: data.Dataset, tmp_path: Path) -> None:
    for seed in (0, 1):
        with pytest.raises(CutError):
            run(replace(IMP, seed=seed), root=tmp_path, on_progress=cut_at("level 3", 1))
    mine, theirs = (tmp_path / replace(IMP, seed=seed).name / "level-2.safetensors" for seed in (0, 1))
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(ArtefactError, match=r"level-2\.safetensors is damaged \(it was trained from other weights"):
        run(IMP, root=tmp_path, dataset=digits)
    mine.unlink()
    assert run(IMP, root=tmp_path, dataset=digits).facts["kept"] == 5_020


def test_trained_weights_are_pruned_and_trained_on(digits: data.Dataset, tmp_path: Path) -> None:
    wanted = replace(BASE, pretrain=replace(BASE.recipe, steps=20))
    twin = pretraining(wanted)
    assert twin is not None and twin == dense(replace(BASE, recipe=replace(BASE.recipe, steps=20)), seed=0)
    with pytest.raises(CutError):  # while the dense network is trained
        run(wanted, root=tmp_path, dataset=digits, save_every=0.0, on_progress=cut_at("train", 10))
    result = run(wanted, root=tmp_path, dataset=digits)
    assert result.facts["pretrained"] == twin.name and result.facts["seconds"]["pretrain"] > 0
    trained = load_file(tmp_path / twin.name / "weights.safetensors")
    masks = Masks.load(result.directory / "masks.safetensors")
    kept = torch.cat([trained[name].abs()[mask] for name, mask in masks.items()])
    cut = torch.cat([trained[name].abs()[~mask] for name, mask in masks.items()])
    assert kept.min() >= cut.max() and masks.kept == 5_020  # Han's rule, on the trained weights
    assert same(result, run(wanted, root=tmp_path / "again", dataset=digits))
    assert not same(run(BASE, root=tmp_path, dataset=digits), result)


def test_a_shuffled_choice_of_a_trained_network_keeps_the_trained_weights(digits: data.Dataset, tmp_path: Path) -> None:
    still = replace(BASE, recipe=Recipe(1, Constant(1e-12), batch=50), pretrain=BASE.recipe, sanity=Sanity.SHUFFLE)
    result = run(replace(still, engine=Engine.TORCH), root=tmp_path, dataset=digits)
    trained = load_file(tmp_path / str(result.facts["pretrained"]) / "weights.safetensors")
    weights = load_file(result.directory / "weights.safetensors")
    for name, mask in Masks.load(result.directory / "masks.safetensors").items():
        torch.testing.assert_close(weights[name], trained[name] * mask)


def test_all_that_start_from_a_dense_run_share_it(digits: data.Dataset, tmp_path: Path) -> None:
    base = replace(BASE, pretrain=BASE.recipe)
    news: list[Progress] = []
    wanted = grid(base, ["magnitude", "random", "dense"], [0])
    found = compare(wanted, root=tmp_path, on_progress=news.append)
    assert not found.failures and [row.experiment.method for row in found.rows] == ["magnitude", "random", "dense"]
    assert len(list(tmp_path.glob("dense-*"))) == 1
    assert sum(one.stage == "train" and one.experiment.method == "dense" for one in news) == STEPS


def test_what_cannot_be_pretrained_says_so_once_each(tmp_path: Path) -> None:
    wild = replace(BASE, pretrain=replace(BASE.recipe, rate=Constant(1e30)))
    found = compare(grid(wild, ["magnitude", "random"], [0]), root=tmp_path)
    assert not found.rows and len(list(tmp_path.iterdir())) == 1
    assert all(text.startswith("its pre-training failed: training diverged") for text in found.failures.values())


def test_a_density_that_emerges_is_not_asked_for() -> None:
    assert [one.density for one in grid(BASE, ["agp", "dns", "dense"], [0])] == [0.1, 1.0, 1.0]
    with pytest.raises(
        SecateurError, match=r"`density` must be 1 for dns, which decides itself how much stays, got 0\."
    ):
        check(replace(BASE, method="dns"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "agp", "redraw": True}, r"`redraw` trains other weights .*, but agp acts while the network trains"),
        ({"method": "agp", "score_batch": 9}, r"`score_batch` is for methods that choose once, .*, but agp acts while"),
        ({"method": "agp", "sanity": Sanity.SHUFFLE}, r"`sanity` is for methods that choose once"),
        ({"method": "agp", "engine": Engine.SPARSE}, r"`engine` sparse does not fit this run: agp acts while"),
        (
            {"method": "imp", "sanity": Sanity.INVERT},
            r"`sanity` is for methods that .*, but imp trains the",
        ),
        ({"method": "imp", "options": (("round", 3),)}, r"imp has no option 'round'; .* Did you mean 'rounds'\?"),
        ({"pretrain": BASE.recipe, "sanity": Sanity.REINIT}, r"`sanity` trains other weights .* that has been trained"),
    ],
)
def test_what_makes_no_sense_of_a_method_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match=message):
        run(replace(BASE, **change), root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_program_of_one_s_own_is_run_like_any_other(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_half(model: nn.Module, *, train: Callable[[nn.Module], None], batches: list[Any]) -> Masks:
        assert len(batches) == 1 and len(batches[0][1]) == 50
        train(model)
        weight = dict(model.named_parameters())["fc1.weight"]
        half = torch.arange(weight.numel()).reshape(weight.shape) < weight.numel() // 2
        masks = Masks({"fc1.weight": half})
        masks.apply_(model)
        return masks

    add_methods(monkeypatch, frozenset({"program"}), half=first_half)
    result = run(replace(BASE, method="half", density=1.0), root=tmp_path, dataset=digits)
    assert result.facts["kept"] == 9_600 and result.facts["prunable"] == 19_200


def test_a_repair_is_made_once_and_trained_from(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def initialise(model: nn.Module, _: torch.Generator) -> None:
        made.append(1)
        for parameter in model.parameters():
            parameter.data.fill_(0.01)

    def repaired(density: float) -> Method:
        return replace(methods.magnitude(density), repair=redraw(initialise))

    add_methods(monkeypatch, repaired=repaired)
    wanted = replace(BASE, method="repaired")
    with pytest.raises(CutError):
        run(wanted, root=tmp_path, dataset=digits, on_progress=cut_at("train", 1))
    start = load_file(tmp_path / wanted.name / "start.safetensors")
    masks = Masks.load(tmp_path / wanted.name / "masks.safetensors")
    assert all(torch.equal(start[name] != 0, mask) for name, mask in masks.items())
    assert start["fc1.weight"][masks["fc1.weight"]].unique().tolist() == pytest.approx([0.01])
    result = run(wanted, root=tmp_path, dataset=digits)
    assert len(made) == 1 and not (result.directory / "start.safetensors").exists()
    with pytest.raises(SecateurError, match="`redraw` trains other weights than the ones that were scored, but rep"):
        run(replace(wanted, redraw=True), root=tmp_path, dataset=digits)
