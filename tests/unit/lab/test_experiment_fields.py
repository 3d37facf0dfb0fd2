"""Fields of an experiment beyond the common protocol: which data are used, sanity checks, random labels."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.experiment import (
    Constant,
    Experiment,
    Recipe,
    Sanity,
    dense,
    load_data,
    source,
    trained_on,
    untrained,
)
from secateur.lab.running import MASKS, PRUNE, masks_for, run
from secateur.masks import Masks
from secateur.signals import effective

BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(12, Constant(0.1), batch=50, evaluate_every=4))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def counts(masks: Masks) -> dict[str, int]:
    return {layer.name: layer.kept for layer in masks.layers()}


def test_examples_and_validation_reach_the_data_set(tmp_path: Path) -> None:
    whole = load_data(BASE, data_dir=None, device="cpu")
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (1298, 144, 355)
    other = load_data(replace(BASE, validation=0.25, examples=100), data_dir=None, device="cpu")
    assert (len(other.train), len(other.validation), len(other.test)) == (100, 100, 100)
    held = load_data(replace(BASE, validation=0.25), data_dir=None, device="cpu")
    assert len(held.validation) == 361  # floor(0.25 · 1442 + 0.5)
    assert torch.equal(other.train.x, held.train.x[:100]) and torch.equal(other.test.y, held.test.y[:100])
    facts = run(replace(BASE, validation=0.25, examples=100), root=tmp_path).facts
    assert facts["data"]["title"] == "Digits, first 100" and facts["data"]["train"] == 100
    assert facts["test_error"] in {number / 100 for number in range(101)}


def test_experiments_that_agree_in_the_data_share_them() -> None:
    assert source(BASE) == source(replace(BASE, method="random", sanity=Sanity.SHUFFLE, random_labels=True))
    others = ({"seed": 1}, {"validation": 0.2}, {"examples": 9}, {"data": "mnist"})
    assert len({source(replace(BASE, **other)) for other in ({}, *others)}) == 5  # type: ignore[arg-type]


def test_the_dense_twin_sees_the_same_data() -> None:
    twin = dense(
        replace(BASE, validation=0.2, examples=77, random_labels=True, sanity=Sanity.SHUFFLE, biases=True), seed=3
    )
    assert (twin.validation, twin.examples, twin.random_labels, twin.seed) == (0.2, 77, True, 3)
    assert (twin.method, twin.density, twin.sanity, twin.biases) == ("dense", 1.0, "", False)


def test_new_fields_rename_no_run_and_survive_storage() -> None:
    assert (
        replace(BASE, sanity=Sanity.NONE, random_labels=False, validation=0.1, examples=0).to_json() == BASE.to_json()
    )
    assert not {"sanity", "random_labels", "validation", "examples"} & set(BASE.to_json())
    changed = [
        replace(BASE, sanity=Sanity.INVERT),
        replace(BASE, random_labels=True),
        replace(BASE, validation=0.0),
        replace(BASE, examples=5),
    ]
    for one in changed:
        assert Experiment.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert len({one.hash for one in [BASE, *changed]}) == 5
    assert changed[0].name.startswith("snip-invert-lenet-300-100-digits-d0.05-s0-")


def test_with_nothing_held_out_there_is_no_validation_error(tmp_path: Path) -> None:
    facts = run(replace(BASE, validation=0.0), root=tmp_path, save_every=0.0).facts
    assert facts["data"]["train"] == 1442
    assert facts["validation_error"] is None and facts["selected"] is None
    assert all(one["validation_error"] is None for one in facts["evaluations"]) and len(facts["evaluations"]) == 3
    assert math.isfinite(facts["test_error"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 10.0}, r"`validation` must be a fraction in \[0, 1\), got 10\. Did you mean validation=0\.1\?"),
        ({"validation": -0.1}, r"`validation` must be a fraction in \[0, 1\), got -0\.1\.$"),
    ],
)
def test_wrong_fields_are_refused_before_anything_is_written(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SecateurError, match=message):
        run(replace(BASE, **change), root=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_fields_that_contradict_each_other_make_no_experiment() -> None:
    with pytest.raises(SecateurError, match="`examples` must not be negative, got -1"):
        replace(BASE, examples=-1)
    with pytest.raises(SecateurError, match="`sanity` checks a method's choice, and dense makes none, got 'shuffle'"):
        replace(BASE, method="dense", density=1.0, sanity=Sanity.SHUFFLE)


def test_shuffled_masks_keep_each_layer_s_count_and_move(digits: data.Dataset) -> None:
    own, moved = (masks_for(replace(BASE, sanity=check), digits, CPU) for check in (Sanity.NONE, Sanity.SHUFFLE))
    assert counts(moved) == counts(own)
    for name, mask in own.items():
        assert not torch.equal(moved[name], mask)
    # Two independent sets of k of n positions share k²/n on average: for fc1 far less than all.
    first, n = own["fc1.weight"], own["fc1.weight"].numel()
    k = int(first.sum())
    shared = int((moved["fc1.weight"] & first).sum())
    assert abs(shared - k * k / n) < 6 * (k * k / n) ** 0.5
    assert masks_for(replace(BASE, sanity=Sanity.SHUFFLE), digits, CPU) == moved  # the seed decides
    assert masks_for(replace(BASE, sanity=Sanity.SHUFFLE, seed=1), digits, CPU) != moved


@pytest.mark.filterwarnings("ignore::secateur.EmptyLayerWarning")  # the lowest 5 % leave nothing in fc1
@pytest.mark.filterwarnings("ignore::secateur.TiedScoresWarning")  # and are dead pixels' zeros
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_inverted_masks_share_nothing_up_to_a_half(density: float, digits: data.Dataset) -> None:
    base = replace(BASE, density=density)
    own, inverse = (masks_for(replace(base, sanity=check), digits, CPU) for check in (Sanity.NONE, Sanity.INVERT))
    assert own.kept == inverse.kept == int(50_200 * density + 0.5)
    assert (own & inverse).kept == 0


def test_reinit_keeps_what_is_trained_and_scores_another_draw(digits: data.Dataset, tmp_path: Path) -> None:
    other = replace(BASE, sanity=Sanity.REINIT)
    own, redrawn = (masks_for(one, digits, CPU) for one in (BASE, other))
    assert own.kept == redrawn.kept and own != redrawn
    for (name, here), there in zip(counts(own).items(), counts(redrawn).values(), strict=True):
        assert abs(here - there) < 0.05 * own[name].numel(), name  # the same rule on another draw of the same law
    trained, scored = untrained(other), untrained(other, scoring=True)
    plain = untrained(BASE)
    for one, two, three in zip(trained.parameters(), scored.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, three)  # equal terms: all methods of a seed train the same first weights
        assert one.dim() == 1 or not torch.equal(one, two)
    result = run(other, root=tmp_path, dataset=digits)
    assert Masks.load(result.directory / MASKS) == redrawn


def test_random_labels_are_trained_on_and_true_ones_scored(digits: data.Dataset, tmp_path: Path) -> None:
    true, random = (run(replace(BASE, random_labels=wrong), root=tmp_path) for wrong in (False, True))
    masks = [Masks.load(result.directory / MASKS) for result in (true, random)]
    assert masks[0] == masks[1]
    weights = [(result.directory / "weights.safetensors").read_bytes() for result in (true, random)]
    assert weights[0] != weights[1]
    assert random.facts["data"]["title"] == "Digits, random labels" and true.facts["data"]["title"] == "Digits"
    seen = trained_on(replace(BASE, random_labels=True), digits)
    assert not torch.equal(seen.train.y, digits.train.y) and seen.test is digits.test
    assert trained_on(BASE, digits) is digits


def test_only_the_labels_differ_between_true_and_random(tmp_path: Path) -> None:
    # Trained by hand on permuted labels under the masks of the true ones: the same weights as the run's.
    wanted = replace(BASE, random_labels=True)
    result = run(wanted, root=tmp_path / "a")
    relabelled = trained_on(wanted, data.load("digits", seed=0))
    (tmp_path / "b" / BASE.name).mkdir(parents=True)
    for name in (MASKS, PRUNE):
        (tmp_path / "b" / BASE.name / name).write_bytes((result.directory / name).read_bytes())
    by_hand = run(BASE, root=tmp_path / "b", dataset=relabelled)
    one, other = ((found.directory / "weights.safetensors").read_bytes() for found in (result, by_hand))
    assert one == other


def test_an_effective_budget_is_one_of_weights_on_paths(tmp_path: Path, digits: data.Dataset) -> None:
    wanted = replace(BASE, density=0.01, effective=True)
    assert wanted.hash != replace(BASE, density=0.01).hash
    result = run(wanted, root=tmp_path, dataset=digits)
    masks = Masks.load(result.directory / MASKS)
    found = effective(untrained(wanted), masks, digits.test.x[:1]).kept
    assert abs(found - 0.01 * masks.numel) <= 1.5 and masks.kept > found
    with pytest.raises(SecateurError, match="`effective` is for methods that choose once"):
        run(replace(wanted, method="rigl"), root=tmp_path, dataset=digits)
    with pytest.raises(SecateurError, match="`effective` is a method's budget"):
        replace(BASE, method="dense", density=1.0, effective=True)
