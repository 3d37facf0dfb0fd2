"""Experiments are values: equal ones share a name for ever, and a name never lies about its content."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from secateur._base.errors import SecateurError
from secateur.axes.structure import blocks
from secateur.lab.experiment import (
    PAPER_PROTOCOL,
    Adam,
    Constant,
    Engine,
    Experiment,
    Ramp,
    Recipe,
    Sanity,
    Sgd,
    Stairs,
    method_of,
)
from secateur.lab.models import Initial

BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(steps=100, rate=Constant(0.1)))


def test_names_are_pinned() -> None:
    # Literal values: if one of these changes, every run that anybody has on disk is lost to its command.
    assert BASE.name == "snip-lenet-300-100-digits-d0.05-s0-79e66717"
    cifar = Recipe(steps=150_000, rate=Stairs(0.1, 30_000), batch=128, augment=True)
    paper = Experiment("vgg-d", "cifar-10", "snip", 0.05, cifar, seed=3, **PAPER_PROTOCOL)
    assert paper.name == "snip-vgg-d-cifar-10-d0.05-s3-caf099d7"
    other = Experiment(
        "gru-s",
        "mnist",
        "force",
        0.1,
        Recipe(500, Ramp(0.2, 500, warmup=10), Adam(weight_decay=1e-4), batch=64, augment=True, evaluate_every=50),
        options=(("rounds", 5),),
        score_batch=1000,
        score_batches=4,
        initialiser=Initial.VS_H,
        score_initialiser=Initial.RN,
        engine=Engine.TORCH,
    )
    assert other.name == "force-gru-s-mnist-d0.1-s0-c63517cb"


def test_blocks_stand_in_the_name() -> None:
    assert replace(BASE, block=(4, 1)).name.startswith("snip-lenet-300-100-digits-d0.05-b4x1-s0-")
    found = method_of(replace(BASE, block=(4, 1))).structure
    assert found == blocks(4, 1)
    with pytest.raises(
        SecateurError, match=r"synflow .* takes no `block`, got \(4, 1\)\. Methods that do: .*magnitude, .*snip"
    ):
        method_of(replace(BASE, method="synflow", block=(4, 1)))


def test_a_field_at_its_default_does_not_enter_the_hash() -> None:
    # So a field that is added later, with a default, renames no run.
    written = BASE.to_json()
    assert set(written) == {"kind", "model", "data", "method", "density", "recipe"}
    assert set(written["recipe"]) == {"kind", "steps", "rate"}


CHANGES = {
    "model": "vgg-d",
    "data": "mnist",
    "method": "random",
    "density": 0.1,
    "recipe": Recipe(steps=101, rate=Constant(0.1)),
    "seed": 1,
    "options": (("rounds", 5),),
    "score_batch": 10,
    "score_batches": 2,
    "initialiser": Initial.VS_H,
    "score_initialiser": Initial.RN,
    "redraw": True,
    "biases": True,
    "score_in_eval": True,
    "engine": Engine.TORCH,
    "block": (4, 1),
    "sanity": Sanity.SHUFFLE,
    "random_labels": True,
    "validation": 0.0,
    "examples": 500,
    "bf16": True,
    "pretrain": Recipe(steps=50, rate=Constant(0.1)),
    "layers": (0.1, 0.2, 0.3),
    "effective": True,
}


def test_every_field_enters_the_hash() -> None:
    assert set(CHANGES) == {field.name for field in fields(Experiment)}
    names = {replace(BASE, **{field: value}).hash for field, value in CHANGES.items()}
    assert len(names) == len(CHANGES) and BASE.hash not in names


def test_every_part_of_a_recipe_enters_the_hash() -> None:
    base = Recipe(steps=100, rate=Stairs(0.1, 10))
    others = [
        replace(base, steps=99),
        replace(base, rate=Stairs(0.2, 10)),
        replace(base, rate=Stairs(0.1, 11)),
        replace(base, rate=Stairs(0.1, 10, factor=0.2)),
        replace(base, rate=Constant(0.1)),
        replace(base, rate=Ramp(0.1, 10)),
        replace(base, optimizer=Sgd(momentum=0.8)),
        replace(base, optimizer=Sgd(weight_decay=0)),
        replace(base, optimizer=Sgd(nesterov=True)),
        replace(base, optimizer=Adam()),
        replace(base, optimizer=Adam(beta1=0.8)),
        replace(base, batch=99),
        replace(base, augment=True),
        replace(base, evaluate_every=7),
    ]
    assert len({replace(BASE, recipe=recipe).hash for recipe in [base, *others]}) == 1 + len(others)


def test_what_a_recipe_is_called_does_not_enter_the_hash() -> None:
    named = replace(BASE, recipe=replace(BASE.recipe, name="mine"))
    assert named == BASE and named.hash == BASE.hash
    assert named.to_json()["recipe"]["name"] == "mine"  # but it is stored, for the reader


def test_whole_floats_and_ints_are_one_value() -> None:
    one = replace(BASE, density=1, recipe=Recipe(steps=100, rate=Constant(1)))
    other = replace(BASE, density=1.0, recipe=Recipe(steps=100, rate=Constant(1.0)))
    assert one == other and one.hash == other.hash


def test_options_are_a_set_of_pairs() -> None:
    one = replace(BASE, options=(("b", 2), ("a", 1)))
    assert one == replace(BASE, options=(("a", 1), ("b", 2)))
    assert one.with_options({"b": 3}).options == (("a", 1), ("b", 3))


@pytest.mark.parametrize("field", CHANGES)
def test_json_round_trip(field: str) -> None:
    changed = replace(BASE, **{field: CHANGES[field]})
    again = Experiment.from_json(changed.to_json())
    assert again == changed and again.hash == changed.hash


def test_unknown_stored_fields_are_refused() -> None:
    with pytest.raises(SecateurError, match=r"a stored experiment has no field 'densety'. Did you mean 'density'\?"):
        Experiment.from_json(BASE.to_json() | {"densety": 0.1})
    with pytest.raises(SecateurError, match=r"`kind` must be one of .*, got 'recipee'. Did you mean 'recipe'\?"):
        Experiment.from_json(BASE.to_json() | {"recipe": {"kind": "recipee"}})
    for field, word, message in (
        ("initialiser", "vsx", r"`initialiser` must be one of vs, .*Did you mean 'vs-x'\?"),
        ("score_initialiser", "nr", r"`score_initialiser` must be one of"),
        ("sanity", "shufle", r"`sanity` must be one of invert, shuffle, reinit, got 'shufle'\. Did you mean 'shuffle'"),
    ):
        with pytest.raises(SecateurError, match=message):
            Experiment.from_json(BASE.to_json() | {field: word})
    with pytest.raises(SecateurError, match="expected a stored experiment, got a stored recipe"):
        Experiment.from_json(BASE.to_json()["recipe"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0.0}, r"`density` must be in \(0, 1\], got 0\."),
        ({"density": 95}, r"got 95\. Did you mean density=0\.05 \(keep 5 %\)\?"),
        ({"density": float("nan")}, r"`density` must be in \(0, 1\], got nan\."),
        ({"method": "dense"}, r"`density` of the method dense must be 1 \(nothing is pruned\), got 0\.05\."),
        (
            {"method": "dense", "density": 1.0, "pretrain": BASE.recipe},
            r"`pretrain` is for what is pruned later, and dense is not: leave it None\.",
        ),
        ({"seed": -1}, r"`seed` must not be negative, got -1\."),
        ({"score_batch": -1}, r"`score_batch` must not be negative, got -1\."),
        ({"score_batches": 0}, r"`score_batches` must be at least 1, got 0\."),
        ({"block": (4, 0)}, r"`block` must be two numbers of at least 1, got \(4, 0\)\."),
        ({"block": (4, 1), "biases": True}, r"`block` is for weights, and `biases` are counted too, got \(4, 1\)\."),
        ({"block": (4, 1), "method": "dense", "density": 1.0}, r"`block` is a method's, and dense has none"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        replace(BASE, **change)  # type: ignore[arg-type]
