"""Penalties that act at some steps only, and that change: the strength of a step, and a resume in the middle."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_cases import mlp, same, sgd, weights
from online_cases import step as train
from penalty_cases import penalised, shrunk, squares
from secateur import Pruner, SecateurError
from secateur.axes import Penalty


def halved(name: str, weight: Tensor, lr: float) -> Tensor:
    return weight / 2


def test_every_third_step_the_proximal_step_is_three_times_as_long() -> None:
    model, plain = mlp(), mlp()
    pruner = Pruner(model, penalised(Penalty("rare", prox=shrunk, every=3), at=99))
    optimizer, twin = (torch.optim.SGD(each.parameters(), lr=0.05) for each in (model, plain))
    for number in range(1, 8):
        train(model, optimizer, number)
        train(plain, twin, number)
        if number % 3 == 0:
            with torch.no_grad():
                for w in (plain[0].weight, plain[2].weight):
                    w.mul_(1 - 3 * 0.05)
        for name, value in weights(model).items():
            torch.testing.assert_close(value, plain.get_parameter(name))
    pruner.release()


def test_a_later_penalty_takes_the_place_of_the_first() -> None:
    first = Penalty("first", prox=shrunk, later=(2, Penalty("second", prox=halved, every=2)))
    assert [getattr(first.at(step), "name", None) for step in range(1, 7)] == [
        "first", "first", None, "second", None, "second",
    ]  # fmt: skip
    nested = replace(first, later=(2, replace(first, name="second", later=(4, Penalty("third", squares)))))
    assert [getattr(nested.at(step), "name", None) for step in (2, 3, 4, 5)] == ["first", "second", "second", "third"]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resume_knows_at_which_step_it_is(stop: int) -> None:
    penalty = Penalty("first", squares, shrunk, every=2, later=(3, Penalty("second", squares, halved, every=3)))
    models = []
    for cut in (None, stop):
        model = mlp()
        optimizer, pruner = sgd(model), Pruner(model, penalised(penalty, at=8))
        for number in range(7):
            if number == cut:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), pruner.state_dict()))
                pruner.release()
                model = mlp()
                optimizer, pruner = sgd(model), Pruner(model, penalised(penalty, at=8))
                for each, state in zip((model, optimizer, pruner), saved, strict=True):
                    each.load_state_dict(state)
            train(model, optimizer, number)
        pruner.release()
        models.append(model)
    assert same(*models)


def test_every_must_be_a_number_of_steps() -> None:
    with pytest.raises(SecateurError, match="`every` must be at least 1 optimizer step, got 0"):
        Penalty("never", squares, every=0)
