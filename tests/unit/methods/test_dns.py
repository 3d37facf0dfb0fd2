"""DNS against its definition: a mask with hysteresis over weights that all go on learning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import batch, dense_gradient, mlp, seeded, sgd, weights
from online_cases import step as train
from secateur import Pruner, methods
from secateur._base.errors import SecateurError
from secateur.gates import surgery


def _gates(model: nn.Module) -> dict[str, nn.Module]:
    return {name.replace("_gate", ""): gate for name, gate in model.named_modules() if name.endswith("_gate")}


def _dns(until: int = 100, **options: float):
    return methods.dns(until=until, **options)


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_the_threshold_is_mean_plus_quality_deviations_of_what_is_there() -> None:
    weight = nn.Parameter(torch.tensor([[0.0, 1.0, -3.0], [2.0, 0.0, -2.0]], dtype=torch.float64))
    size = torch.tensor([1.0, 3.0, 2.0, 2.0], dtype=torch.float64)
    spread = ((size - 2) ** 2).mean().sqrt()
    for quality in (1.5, -0.5, -9.0):
        gate = surgery(quality=quality, until=1, gamma=0, power=1)("w", weight)
        torch.testing.assert_close(gate.threshold, (2 + quality * spread).clamp(min=0))


def test_between_the_two_thresholds_a_weight_keeps_its_state() -> None:
    weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
    gate = surgery(quality=0.0, until=100, gamma=0, power=1)("w", weight)
    assert float(gate.threshold) == 1.0
    walk = [(1.05, True), (0.95, True), (0.89, False), (0.95, False), (-1.05, False), (-1.11, True), (0.91, True)]
    for value, alive in [*walk, (-0.9, False), (0.0, False), (1.2, True)]:
        gate.after_step(torch.tensor([[value]], dtype=torch.float64), 0.1)
        assert bool(gate.mask) is alive, f"|w| = {abs(value)}"


def test_the_first_update_is_certain_and_the_next_come_with_the_chance_of_the_paper() -> None:
    model, gamma, power = nn.Linear(30, 1, bias=False).double(), 0.8, 0.7
    pruner = Pruner(model, _dns(gamma=gamma, power=power), generator=seeded(4))
    gate, coins = _gates(model)["weight"], seeded(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updates = []
    for i in range(40):
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 30, dtype=torch.float64))
        before, large = gate.mask.clone(), model.weight.detach().abs()
        ruled = (before & (large > 0.9 * gate.threshold)) | (large > 1.1 * gate.threshold)
        model(torch.ones(1, 30, dtype=torch.float64)).sum().backward()
        optimizer.step()
        updates.append(float(torch.rand((), generator=coins)) < (1 + gamma * i) ** -power)
        assert torch.equal(gate.mask, ruled if updates[-1] else before)
    assert updates[0] and 0 < sum(updates) < 40
    assert pruner.masks["weight"].equal(gate.mask)


# --- in training ------------------------------------------------------------------------------------------------------


def test_cut_weights_go_on_learning_by_the_gradient_of_the_masked_network() -> None:
    model = mlp()
    pruner = Pruner(model, _dns(gamma=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    moved = 0
    for t in range(6):
        before, masks = weights(model), pruner.masks
        gradient = dense_gradient(before, masks, [t])
        train(model, optimizer, t)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] - 0.3 * gradient[name])
        moved += sum(int((model.get_parameter(n) != before[n])[~m].sum()) for n, m in masks.items())
    assert moved > 0


def test_a_weight_that_was_cut_comes_back_when_it_has_grown() -> None:
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.2, 1.0, 1.0, 1.0]]))
    pruner = Pruner(model, _dns(gamma=0.0, quality=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, history = torch.eye(4, dtype=torch.float64)[:1], []
    for _ in range(12):  # every step adds 0.1 to the first weight alone
        optimizer.zero_grad()
        (-model(x)).sum().backward()
        optimizer.step()
        history.append(bool(pruner.masks["weight"][0, 0]))
        size = float(model.weight[0, 0].detach())
        assert model(x).item() == (size if history[-1] else 0.0)
    assert history == [0.2 + 0.1 * (i + 1) > 1.1 * 0.8 for i in range(12)]


def test_the_thresholds_are_frozen_and_the_masks_too_from_until_on() -> None:
    model = mlp()
    pruner = Pruner(model, _dns(until=5, gamma=0.0), generator=seeded(1))
    gates = _gates(model)
    thresholds = {name: gate.threshold.clone() for name, gate in gates.items()}
    assert gates.keys() == pruner.masks.keys()
    optimizer, history = sgd(model), []
    for t in range(12):
        train(model, optimizer, t)
        if t == 6:
            with torch.no_grad():
                model[0].weight.mul_(-3)
        history.append(pruner.masks)
    assert all(torch.equal(gate.threshold, thresholds[name]) for name, gate in gates.items())
    assert history[0].density < 1 and all(masks == history[4] for masks in history[4:])


def test_finishing_writes_what_was_computed_with() -> None:
    model = mlp()
    keys = list(model.state_dict())
    pruner, optimizer = Pruner(model, _dns(until=6, gamma=0.0)), sgd(model)
    for t in range(6):
        train(model, optimizer, t)
    dense, masks = weights(model), pruner.masks
    assert any(bool((dense[name][~mask] != 0).any()) for name, mask in masks.items())
    gated = model(batch(0)[0])
    assert pruner.finish() == masks and torch.equal(model(batch(0)[0]), gated)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dense[name] * masks.get(name, torch.ones(()))), name
    assert list(model.state_dict()) == keys and not _gates(model)


def test_a_run_goes_on_from_any_step() -> None:
    def begin() -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
        model = mlp()
        return model, Pruner(model, _dns(until=9, gamma=0.7), generator=seeded(7)), sgd(model)

    whole, pruner, optimizer = begin()
    for t in range(12):
        train(whole, optimizer, t)
    for stop in range(1, 12):
        first, second = begin(), begin()
        for t in range(stop):
            train(first[0], first[2], t)
        for one, other in zip(first, second, strict=True):
            other.load_state_dict(one.state_dict())
        for t in range(stop, 12):
            train(second[0], second[2], t)
        assert second[1].masks == pruner.masks
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second[0].parameters(), strict=True))


@pytest.mark.parametrize("options", [{"until": 0}, {"until": 3, "gamma": -1.0}, {"until": 3, "power": -1.0}])
def test_what_makes_no_sense_is_refused(options: dict) -> None:
    with pytest.raises(SecateurError, match="surgery needs until >= 1, gamma >= 0 and power >= 0"):
        methods.dns(**options)


def test_the_gradient_of_the_masked_forward_reaches_all_weights() -> None:
    """Eq. 3: ∂L/∂w = ∂L/∂(w ⊙ T), not masked."""
    weight = nn.Parameter(torch.tensor([[0.1, 2.0]], dtype=torch.float64))
    gate = surgery(quality=0.0, until=9, gamma=0, power=1)("w", weight)
    gate.after_step(weight.detach(), 0.1)
    assert gate.mask.tolist() == [[False, True]]
    used: Tensor = gate(weight)
    assert used.tolist() == [[0.0, 2.0]]
    F.linear(torch.tensor([[3.0, 5.0]], dtype=torch.float64), used).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[3.0, 5.0]]


# --- its choices ------------------------------------------------------------------------------------------------------


def test_a_quality_by_name_and_margins_of_ones_own() -> None:
    model = mlp()
    before = {name: p.detach().abs() for name, p in model.named_parameters()}
    Pruner(model, methods.dns(until=5, quality={"2.weight": -0.5, "*": 1.5}, low=0.5, high=2.0))
    for name, gate in _gates(model).items():
        size, quality = before[name], -0.5 if name == "2.weight" else 1.5
        spread = ((size - size.mean()) ** 2).mean().sqrt()
        torch.testing.assert_close(gate.threshold, size.mean() + quality * spread)
    weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
    gate = surgery(quality=0.0, until=100, gamma=0, power=1, low=0.5, high=2.0)("w", weight)
    for value, alive in [(0.6, True), (0.5, False), (1.9, False), (2.1, True), (-0.6, True)]:
        gate.after_step(torch.tensor([[value]], dtype=torch.float64), 0.1)
        assert bool(gate.mask) is alive, f"|w| = {abs(value)}"
    with pytest.raises(SecateurError, match="surgery needs 0 <= low <= high, got low=2 and high=1"):
        methods.dns(until=5, low=2, high=1)


def test_layers_without_a_quality_are_left_alone_and_biases_are_a_choice() -> None:
    model = mlp()
    masks = Pruner(model, methods.dns(until=5, quality={"0.*": 1.0}, biases=True)).masks
    assert sorted(_gates(model)) == ["0.bias", "0.weight"] and set(masks) == set(dict(model.named_parameters()))
    assert sorted(_gates_of(methods.dns(until=5))) == ["0.weight", "2.weight"]


def _gates_of(method) -> dict[str, nn.Module]:
    model = mlp()
    Pruner(model, method)
    return _gates(model)
