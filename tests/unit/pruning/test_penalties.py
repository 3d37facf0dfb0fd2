"""Penalties: their gradient before the step, their proximal step after it, until the schedule ends."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from online_cases import batch, mlp, same, sgd, weights
from online_cases import step as train
from penalty_cases import STRENGTH, penalised, shrunk, squares
from secateur import Pruner, SecateurError, prune, schedule
from secateur.axes import Penalty
from secateur.axes.penalty import l1


def test_the_price_joins_the_loss_until_the_last_milestone_and_no_longer() -> None:
    """Like training with the price in the loss, then without it and with the weights cut."""
    model, reference = mlp(), mlp()
    optimizer, twin = sgd(model), sgd(reference)
    pruner = Pruner(model, penalised(Penalty("squares", squares), at=3))
    for number in range(3):
        train(model, optimizer, number)
        twin.zero_grad()
        price = STRENGTH * (reference[0].weight.square().sum() + reference[2].weight.square().sum())
        (F.cross_entropy(reference(batch(number)[0]), batch(number)[1]) + price).backward()
        twin.step()
    kept = {name: p != 0 for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name) * kept[name])
    before = weights(model)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    plain.zero_grad()
    F.cross_entropy(model(batch(3)[0]), batch(3)[1]).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    plain.zero_grad()
    train(model, plain, 3)
    masks = pruner.finish()
    for name in masks:
        torch.testing.assert_close(model.get_parameter(name), before[name] - 0.1 * grads[name] * masks[name])


def test_the_proximal_step_is_given_the_rate_of_the_group_that_trains_the_weight() -> None:
    model, plain = mlp(), mlp()
    groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[2].weight], "lr": 0.2}]
    others = [{"params": [plain[0].weight], "lr": 0.1}, {"params": [plain[2].weight], "lr": 0.2}]
    Pruner(model, penalised(Penalty("shrunk", prox=shrunk)))
    train(model, torch.optim.SGD(groups), 0)
    train(plain, torch.optim.SGD(others), 0)
    torch.testing.assert_close(model[0].weight, plain[0].weight * 0.9)
    torch.testing.assert_close(model[2].weight, plain[2].weight * 0.8)
    torch.testing.assert_close(model[0].bias, plain[0].bias)


def test_l1_is_the_minimiser_of_its_own_problem() -> None:
    """prox(v) = argmin ½(x − v)² + ηλ|x|, found by search."""
    penalty, grid = l1(2.0), torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for value in (-2.0, -0.15, 0.0, 0.2, 0.21, 1.3):
        wanted = grid[(0.5 * (grid - value).square() + 0.1 * 2.0 * grid.abs()).argmin()]
        assert penalty.prox is not None
        found = penalty.prox("w", torch.tensor(value, dtype=torch.float64), 0.1)
        assert abs(float(found - wanted)) < 1e-4
    assert float(penalty.prox("w", torch.tensor(0.2), 0.1)) == 0


def test_tensors_that_lie_the_other_way_are_turned_for_the_penalty() -> None:
    seen: dict[str, torch.Size] = {}

    def note(name: str, weight: torch.Tensor) -> torch.Tensor:
        seen[name] = weight.shape
        return weight.square().sum()

    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2), nn.Flatten(), nn.Linear(45, 3))
    Pruner(model, penalised(Penalty("note", note)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(torch.ones(2, 3, 2, 2)), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert seen == {"0.weight": (5, 3, 2, 2), "2.weight": (3, 45)}


def test_release_and_finish_end_it() -> None:
    for end in ("release", "finish"):
        model, plain = mlp(), mlp()
        pruner = Pruner(model, penalised(Penalty("squares", squares), at=1, density=1.0))
        train(model, sgd(model), 0)
        getattr(pruner, end)()
        plain.load_state_dict(model.state_dict())
        for each in (model, plain):
            train(each, sgd(each), 1)
        assert same(model, plain)


def test_a_stop_and_a_resume_end_in_the_same_bits() -> None:
    for stop in (1, 3, 5):
        whole, parts = mlp(), mlp()
        penalty = Penalty("both", squares, shrunk)
        ends = []
        for model, cut in ((whole, None), (parts, stop)):
            optimizer, pruner = sgd(model), Pruner(model, penalised(penalty, at=3))
            for number in range(6):
                if number == cut:
                    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), pruner.state_dict()))
                    pruner.release()
                    parts = model = mlp()
                    optimizer, pruner = sgd(model), Pruner(model, penalised(penalty, at=3))
                    model.load_state_dict(saved[0])
                    optimizer.load_state_dict(saved[1])
                    pruner.load_state_dict(saved[2])
                train(model, optimizer, number)
            ends.append(pruner.finish())
        assert same(whole, parts) and ends[0] == ends[1]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="neither a `term` nor a `prox`"):
        Penalty("nothing")
    with pytest.raises(SecateurError, match=r"it never would\. Let the schedule end later"):
        penalised(l1(0.1), at=0)
    with pytest.raises(SecateurError, match="`strength` must be at least 0 and finite, got -1"):
        l1(-1)
    with pytest.raises(SecateurError, match="Pruner"):
        prune(mlp(), penalised(l1(0.1)))
    model = mlp()
    with pytest.raises(SecateurError, match="the penalty 'none' reaches no parameter"):
        Pruner(model, penalised(Penalty("none", squares, reach=lambda network, params: {})))
    pruner = Pruner(model, penalised(l1(0.1)))  # nothing of the one before is left
    optimizer = sgd(model)
    with pytest.raises(SecateurError, match=r"without a closure"):
        optimizer.step(lambda: F.cross_entropy(model(batch(0)[0]), batch(0)[1]))
    pruner.release()
    assert penalised(l1(0.1)).schedule == schedule.once(0.5, at=4)
