"""Learning neurons: the proximal step minimises its own problem, its two limits, and when a dead neuron may live."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from online_cases import mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, TiedScoresWarning, methods, structure
from secateur.penalties import group_shrinkage

STRENGTH, LR = 0.4, 0.5


def _price(weight: Tensor, alpha: float) -> Tensor:
    rows = weight.reshape(*weight.shape[:-2], 3, 4)
    groups = math.sqrt(4) * rows.norm(dim=-1).sum(-1)
    return STRENGTH * ((1 - alpha) * groups + alpha * rows.abs().sum((-1, -2)))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_step_is_the_minimiser_of_its_problem(alpha: float) -> None:
    """No point nearby, in 20,000 directions at four distances, has a lower ½‖x − w‖² + ηr(x)."""
    drawn = torch.Generator().manual_seed(4)
    weight = torch.randn(3, 4, dtype=torch.float64, generator=drawn) * torch.tensor([[0.1], [0.6], [2.0]]).double()
    prox = group_shrinkage(STRENGTH, structure.filters(), alpha=alpha).prox
    assert prox is not None
    found = prox("w", weight, LR)

    def problem(x: Tensor) -> Tensor:
        return 0.5 * (x - weight).square().sum((-1, -2)) + LR * _price(x, alpha)

    for distance in (1e-4, 1e-2, 0.1, 1.0):
        away = torch.randn(20_000, 3, 4, dtype=torch.float64, generator=drawn)
        away *= torch.rand(20_000, 3, 4, dtype=torch.float64, generator=drawn) < 0.4  # along few coordinates too
        assert bool((problem(found + distance * away) >= problem(found) - 1e-12).all())
    assert (bool((found[0] == 0).all()) and not bool((found[2] == 0).any())) or alpha == 1


def test_alpha_leads_from_groups_to_single_weights() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.01, -0.02]])
    groups = group_shrinkage(1.0, structure.filters(), alpha=0.0).prox
    single = group_shrinkage(1.0, structure.filters(), alpha=1.0).prox
    assert groups is not None and single is not None
    shrunk = 5 - 0.1 * math.sqrt(2)
    torch.testing.assert_close(groups("w", weight, 0.1), torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * shrunk / 5)
    torch.testing.assert_close(single("w", weight, 0.1), torch.tensor([[2.9, 3.9], [0.0, 0.0]]))


def test_a_zero_neuron_stays_until_the_gradient_exceeds_its_price() -> None:
    prox = group_shrinkage(STRENGTH, structure.filters()).prox
    assert prox is not None
    threshold = STRENGTH * math.sqrt(9)
    for size, alive in ((0.99 * threshold, False), (1.01 * threshold, True)):
        gradient = torch.zeros(1, 9, dtype=torch.float64)
        gradient[0, :2] = size / math.sqrt(2)
        assert bool((prox("w", -LR * gradient, LR) != 0).any()) is alive


def test_steps_are_taken_every_so_often_with_as_much_strength() -> None:
    model, reference = mlp(), mlp()
    pruner = Pruner(model, methods.learning_neurons(until=9, strength=0.02, every=3))
    optimizer, twin = sgd(model), sgd(reference)
    for number in range(1, 7):
        train(model, optimizer, number)
        train(reference, twin, number)
        if number % 3 == 0:
            with torch.no_grad():
                for w in (reference[0].weight, reference[2].weight):
                    t = 3 * 0.1 * 0.02 * math.sqrt(w.shape[1])
                    w.mul_((1 - t / w.norm(dim=1, keepdim=True)).clamp(min=0))
        for name, value in weights(model).items():
            torch.testing.assert_close(value, reference.get_parameter(name))
    pruner.release()


def test_dead_neurons_are_cut_and_one_of_each_layer_lives() -> None:
    model = mlp()
    pruner = Pruner(model, methods.learning_neurons(until=40, strength=0.05, every=1))
    optimizer = sgd(model)
    dead = torch.zeros(0, dtype=torch.bool)
    for number in range(40):
        train(model, optimizer, number % 4)
        dead = (model[0].weight == 0).all(1) if number == 39 else dead
    masks = pruner.finish()
    assert 0 < int(dead.sum()) < 20 and torch.equal(masks["0.weight"].any(1), ~dead)
    model = mlp()
    pruner = Pruner(model, methods.learning_neurons(until=2, strength=1e3, every=1))
    optimizer = sgd(model)
    with pytest.warns(TiedScoresWarning):  # none is better than another
        for number in range(2):
            train(model, optimizer, number)
    assert [int(mask.any(1).sum()) for mask in pruner.finish().values()] == [1, 1]


def test_the_cut_follows_a_proximal_step() -> None:
    assert methods.learning_neurons(until=29, every=10).schedule.milestones[-1].step == 20
    assert methods.learning_neurons(until=30, every=10).schedule.milestones[-1].step == 30


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match=r"`alpha` must be in \[0, 1\].*got 1.5"):
        methods.learning_neurons(until=30, alpha=1.5)
    with pytest.raises(SecateurError, match="`every` must be at least 1 and at most until=3, got 4"):
        methods.learning_neurons(until=3, every=4)
    with pytest.raises(SecateurError, match="`strength`"):
        methods.learning_neurons(until=30, strength=-1)
