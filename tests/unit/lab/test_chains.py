"""A run that begins where another one ended; and SGD with an L1 penalty."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from secateur import Masks, methods, prune
from secateur._base.errors import SecateurError
from secateur.lab.comparing import needed_first
from secateur.lab.experiment import Constant, Engine, Experiment, Ramp, Recipe, Sgd, check, pretraining
from secateur.lab.models import Initial
from secateur.lab.paper import Cell, Length
from secateur.lab.running import choose, run, start

RECIPE = Recipe(12, Ramp(0.1, 12), batch=50, evaluate_every=6)
FIRST = Experiment("lenet-300-100", "digits", "magnitude", 0.1, RECIPE, pretrain=RECIPE)
SHARED = replace(FIRST, method="trained_quantisation", density=1.0, pretrain=FIRST).with_options({"bits": 3})


def test_a_run_begins_where_another_ended(tmp_path: Path) -> None:
    result = run(SHARED, root=tmp_path)
    assert result.facts["pretrained"] == FIRST.name
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["dense", "magnitude", "trained"]
    before = load_file(tmp_path / FIRST.name / "weights.safetensors")
    after = load_file(result.directory / "weights.safetensors")
    masks = Masks.load(tmp_path / FIRST.name / "masks.safetensors")
    assert result.facts["kept"] == masks.kept == 5_020
    for name, mask in masks.items():
        assert bool((after[name][~mask] == 0).all()) and len(after[name][mask].unique()) <= 8
        assert len(before[name][mask].unique()) > 8
    again = run(replace(SHARED, engine=Engine.TORCH), root=tmp_path)  # the chain is there, and shared
    assert again.facts["pretrained"] == FIRST.name and len(list(tmp_path.glob("magnitude-*"))) == 1


def test_what_comes_first_has_the_seed_of_what_follows() -> None:
    later = replace(SHARED, seed=3)
    before = pretraining(later)
    assert before is not None and before == replace(FIRST, seed=3)
    first = pretraining(before)
    assert first is not None and first.seed == 3 and first.method == "dense"
    assert [one.method for one in needed_first([later])] == ["dense", "magnitude"]
    assert needed_first([later, before]) == [first]


def test_a_chain_is_stored_and_named_whole() -> None:
    odd = replace(SHARED, initialiser=Initial.VS_H, pretrain=replace(FIRST, initialiser=Initial.VS_H))
    for one in (SHARED, odd):
        assert Experiment.from_json(one.to_json()) == one
    assert (
        len({one.hash for one in (SHARED, odd, replace(SHARED, pretrain=RECIPE), replace(SHARED, pretrain=None))}) == 4
    )


@pytest.mark.parametrize(
    "other", [{"data": "mnist"}, {"model": "lenet-5-caffe"}, {"validation": 0.2}, {"examples": 100}]
)
def test_a_chain_of_different_networks_or_data_is_refused(other: dict[str, object]) -> None:
    (field,) = other
    with pytest.raises(SecateurError, match=f"another {field}"):
        check(replace(SHARED, **other))  # type: ignore[arg-type]
    with pytest.raises(SecateurError, match="no option"):
        check(replace(SHARED, pretrain=FIRST.with_options({"speed": 2})))


def test_all_of_a_chain_is_shortened_in_proportion() -> None:
    long = replace(FIRST, recipe=replace(RECIPE, steps=100), pretrain=replace(RECIPE, steps=200))
    cell = Cell("row", "column", replace(SHARED, recipe=replace(RECIPE, steps=50), pretrain=long))
    (short,) = Length(1, steps=10).of(cell)
    middle = short.pretrain
    assert isinstance(middle, Experiment) and isinstance(middle.pretrain, Recipe)
    assert (short.recipe.steps, middle.recipe.steps, middle.pretrain.steps) == (10, 20, 40)
    (whole,) = Length(1).of(cell)
    assert whole == cell.experiment


def test_l1_adds_the_sign_of_each_parameter_to_its_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    masks = prune(model, methods.magnitude(0.5))
    plain = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Sgd(momentum=0.9, weight_decay=0.0, l1=0.01)
    choice = choose(Engine.AUTO, model, masks, optimizer)
    assert choice.engine is Engine.TORCH and "L1" in choice.why
    with pytest.raises(SecateurError, match="L1"):
        choose(Engine.SPARSE, model, masks, optimizer)
    stepper, twin = start(choice, model, masks, optimizer), copy.deepcopy(model)
    velocity = {name: torch.zeros_like(p) for name, p in plain.items()}
    for number in range(4):
        inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(number))
        targets = torch.arange(7) % 3
        stepper.step(inputs, targets, 0.1)
        twin.load_state_dict(plain)
        twin.zero_grad()
        F.cross_entropy(twin(inputs), targets).backward()
        for name, p in twin.named_parameters():
            assert p.grad is not None
            grad = p.grad * masks[name] if name in masks else p.grad
            velocity[name] = 0.9 * velocity[name] + grad + 0.01 * plain[name].sign()
            plain[name] = plain[name] - 0.1 * velocity[name]
    stepper.close()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), plain[name])


def test_without_l1_a_recipe_is_named_as_before() -> None:
    assert (
        replace(FIRST, recipe=Recipe(5, Constant(0.1))).hash
        == replace(FIRST, recipe=Recipe(5, Constant(0.1), optimizer=Sgd(l1=0.0))).hash
    )
    assert Sgd().l1 == 0
