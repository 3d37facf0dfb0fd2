"""Gates among which a scope chooses, gates that retire, and gates that learn from examples of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import Scale, gates
from online_cases import batch, best, mlp, same, sgd, weights
from online_cases import step as train
from penalty_cases import HeldOut, Retiring, Scored, relaxed
from secateur import Gate, Pruner, SecateurError, schedule


def test_the_scope_chooses_among_all_gates_and_tells_each() -> None:
    model = mlp()
    pruner = Pruner(model, relaxed(Scored, schedule.steady(0.25, every=2, until=5)))
    optimizer = sgd(model)
    for number in range(4):
        found = gates(model)
        worths = {name: gate.score.detach().abs() for name, gate in found.items()}
        before = {name: gate.mask.clone() for name, gate in found.items()}
        flat = torch.cat([worths[name].flatten() for name in worths])
        if number % 2 == 0:  # chosen when the step before it was taken, by the scores as they were then
            kept = best(flat, torch.ones_like(flat, dtype=torch.bool), round(0.25 * flat.numel()))
            assert torch.equal(torch.cat([before[name].flatten() for name in worths]), kept)
        assert sum(int(mask.count_nonzero()) for mask in before.values()) == round(0.25 * flat.numel())
        train(model, optimizer, number)
    assert pruner.masks.kept == 75
    masks = pruner.finish()
    assert masks.kept == 75 and not gates(model)
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


def test_a_gate_that_cannot_say_its_worth_and_a_weight_without_a_gate_are_named() -> None:
    with pytest.raises(SecateurError, match="Scale must say what each weight is worth"):
        Pruner(mlp(), relaxed(Scale, schedule.once(0.5)))
    model = mlp()
    with pytest.raises(SecateurError, match=r"'0\.weight' has no gate"):
        Pruner(model, relaxed(Scored, schedule.once(0.5), "2."))
    assert not gates(model)


def test_gates_that_retire_fold_at_the_last_milestone_and_the_rest_is_plain_training() -> None:
    model = mlp()
    pruner = Pruner(model, relaxed(Retiring, schedule.once(0.25, at=2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(2):
        train(model, optimizer, number)
    masks = pruner.masks
    assert masks.kept == 75
    plain = mlp()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "gate" not in k})
    for number in range(2, 5):
        train(model, optimizer, number)
        plain.zero_grad()
        F.cross_entropy(plain(batch(number)[0]), batch(number)[1]).backward()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad * masks.get(name, 1)
    assert pruner.finish() == masks
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("gate", [Scored, Retiring, HeldOut])
def test_a_stop_and_a_resume_in_any_order_end_in_the_same_bits(gate: type[Gate], stop: int) -> None:
    density = None if gate is HeldOut else 0.25
    method = relaxed(gate, schedule.once(density, at=2))

    def begin(model: nn.Module) -> tuple[Pruner, torch.optim.Optimizer]:
        pruner = Pruner(model, method, [batch(100), batch(101)] if gate is HeldOut else None)
        return pruner, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    whole, ends = mlp(), []
    pruner, optimizer = begin(whole)
    for number in range(5):
        if number == stop:
            saved = copy.deepcopy([whole.state_dict(), optimizer.state_dict(), pruner.state_dict()])
        train(whole, optimizer, number)
    ends.append(pruner.finish())
    for order in ((0, 1, 2), (2, 0, 1), (2, 1, 0)):
        model = mlp()
        pruner, optimizer = begin(model)
        for each in order:
            (model, optimizer, pruner)[each].load_state_dict(copy.deepcopy(saved[each]))
        for number in range(stop, 5):
            train(model, optimizer, number)
        assert pruner.finish() == ends[0] and same(model, whole)


def test_held_out_gates_step_on_their_own_batches_and_on_nothing_else() -> None:
    """One step by hand: the weights on the training batch, then the gates on the held-out one."""
    model = mlp()
    pruner = Pruner(model, relaxed(HeldOut, schedule.once(None)), [batch(50), batch(51)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scale = {"0.weight": torch.ones(20, 1).double(), "2.weight": torch.ones(3, 1).double()}
    values = weights(mlp())
    for number in range(3):
        leaf = {name: value.clone().requires_grad_() for name, value in values.items()}
        used = {name: value * scale.get(name, 1) for name, value in leaf.items()}
        loss = F.cross_entropy(functional_call(mlp(), used, batch(number)[0]), batch(number)[1])
        grads = dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))
        values = {name: value - 0.1 * grads[name] for name, value in values.items()}
        held = batch(50 + number % 2)
        own = {name: a.clone().requires_grad_() for name, a in scale.items()}
        used = {name: value * own.get(name, 1) for name, value in values.items()}
        loss = F.cross_entropy(functional_call(mlp(), used, held[0]), held[1])
        moved = torch.autograd.grad(loss, list(own.values()))
        scale = {name: scale[name] - 0.1 * grad for name, grad in zip(own, moved, strict=True)}
        train(model, optimizer, number)
        for name, gate in gates(model).items():
            torch.testing.assert_close(gate.a.detach(), scale[name])
            torch.testing.assert_close(model.get_parameter(name).detach(), values[name])
    assert pruner.parameters() == []
    pruner.finish()
    torch.testing.assert_close(model[0].weight.detach(), values["0.weight"] * scale["0.weight"])


@pytest.mark.parametrize("batches", [None, []])
def test_held_out_gates_without_examples_are_refused(batches: list[object] | None) -> None:
    model = mlp()
    with pytest.raises(SecateurError, match="HeldOut learns from examples that the weights are not trained on"):
        Pruner(model, relaxed(HeldOut, schedule.once(None)), batches)
    assert not gates(model)


def test_several_gates_may_share_a_module_that_learns() -> None:
    shared = nn.Linear(1, 1).double()

    class Sharing(Scored):
        def __init__(self, parameter: nn.Parameter) -> None:
            super().__init__(parameter)
            self.prior = shared

        def penalty(self, weight: torch.Tensor) -> torch.Tensor:
            return self.prior.weight.sum() * 0.5

    model, start = mlp(), float(shared.weight.detach())
    pruner = Pruner(model, relaxed(Sharing, schedule.once(None)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.adopt(optimizer)
    assert len(pruner.parameters()) == 4  # two scores, and the weight and bias that both share
    train(model, optimizer, 0)
    assert abs(float(shared.weight.detach()) - (start - 0.1 * 2 * 0.5)) < 1e-12
