"""Movement pruning against its rule: what the scores add up, what is cut, and what comes back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, best, mlp, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, coupling, methods, schedule, structure


def test_scores_add_up_minus_gradient_times_weight() -> None:
    model, by_hand = mlp(), {name: torch.zeros(()) for name in ("0.weight", "2.weight")}
    Pruner(model, methods.movement(0.5, begin=50, end=100))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        values = {name: p.requires_grad_() for name, p in weights(model).items() if "gate" not in name}
        loss = F.cross_entropy(functional_call(mlp(), values, batch(number)[0]), batch(number)[1])
        grads = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
        for name in by_hand:
            by_hand[name] = by_hand[name] - 0.1 * grads[name] * values[name].detach()
        train(model, optimizer, number)
        for name, gate in gates(model).items():
            torch.testing.assert_close(gate.scores.detach(), by_hand[name])


def test_the_best_of_all_stay_on_a_cubic_and_the_cut_go_on_scoring() -> None:
    model = mlp()
    pruner = Pruner(model, methods.movement(0.2, end=6, every=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = schedule.cubic(0.2, begin=0, end=6, every=2)
    for number in range(6):
        train(model, optimizer, number)
        milestone = plan(number + 1)
        if milestone is not None:
            flat = torch.cat([gate.scores.detach().flatten() for gate in gates(model).values()])
            kept = best(flat, torch.ones_like(flat, dtype=torch.bool), round(milestone.density * 300))
            assert torch.equal(torch.cat([gate.mask.flatten() for gate in gates(model).values()]), kept)
    found = gates(model)
    values = {name: p for name, p in weights(model).items() if "gate" not in name}
    used = {name: (v * found[name].mask if name in found else v).requires_grad_() for name, v in values.items()}
    loss = F.cross_entropy(functional_call(mlp(), used, batch(9)[0]), batch(9)[1])
    grads = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
    optimizer.zero_grad()
    F.cross_entropy(model(batch(9)[0]), batch(9)[1]).backward()
    for name, gate in found.items():
        own = model.get_parameter(name).grad
        assert own is not None and bool((own[~gate.mask] == 0).all())
        torch.testing.assert_close(own, grads[name] * gate.mask)
        torch.testing.assert_close(gate.scores.grad, grads[name] * values[name])
        assert bool((gate.scores.grad[~gate.mask] != 0).any())
    assert pruner.finish().kept == 60


def test_blocks_are_chosen_by_the_sum_of_their_scores() -> None:
    model = mlp()
    blocks = structure.blocks(2, 3)
    pruner = Pruner(model, methods.movement(0.25, end=3, every=1, structure=blocks))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(3):
        train(model, optimizer, number)
    sums, tiles = [], []
    for name, gate in gates(model).items():
        rows, columns = gate.scores.shape
        for i in range(0, rows, 2):
            for j in range(0, columns, 3):
                sums.append(float(gate.scores[i : i + 2, j : j + 3].sum().detach()))
                tiles.append((name, i, j))
    order = sorted(range(len(sums)), key=lambda n: -sums[n])[: int(0.25 * len(sums) + 0.5)]
    wanted = {name: torch.zeros_like(gate.mask) for name, gate in gates(model).items()}
    for n in order:
        name, i, j = tiles[n]
        wanted[name][i : i + 2, j : j + 3] = True
    masks = pruner.finish()
    assert all(torch.equal(masks[name], mask) for name, mask in wanted.items())


def test_the_soft_form_keeps_what_is_above_a_rising_threshold_and_prices_scores() -> None:
    model = mlp()
    pruner = Pruner(model, methods.soft_movement(end=4, threshold=0.4, strength=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: gate.scores.detach().clone() for name, gate in gates(model).items()}
    for number in range(5):
        optimizer.zero_grad()
        (model(batch(number)[0]) * 0).sum().backward()
        optimizer.step()
        threshold = 0.4 * (1 - max(0.0, 1 - (number + 1) / 4) ** 3)
        for name, gate in gates(model).items():
            chance = 1 / (1 + torch.exp(-before[name]))
            torch.testing.assert_close(gate.scores.detach(), before[name] - 0.3 * chance * (1 - chance))
            before[name] = gate.scores.detach().clone()
            assert torch.equal(gate.mask, 1 / (1 + torch.exp(-before[name])) > threshold)
    with torch.no_grad():
        for gate in gates(model).values():
            gate.scores.copy_(torch.linspace(-2, 2, gate.scores.numel()).reshape(gate.scores.shape))
            gate.after_step(gate.scores, 0.1)
    masks = pruner.finish()
    for name, mask in masks.items():  # σ(s) > 0.4 where s > log(0.4 / 0.6)
        line = torch.linspace(-2, 2, mask.numel(), dtype=torch.float64).reshape(mask.shape)
        assert torch.equal(mask, line > -0.4054651081) and bool((model.get_parameter(name)[~mask] == 0).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threshold": 1.0}, "between 0 and 1, got 1"), ({"strength": -1.0}, "strength >= 0"), ({"end": 0}, "end >= 1")],
)
def test_what_cannot_work_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        methods.soft_movement(**{"end": 5, **options})
    with pytest.raises(SecateurError, match="0 <= begin < end"):
        methods.movement(0.1, begin=5, end=5)


def test_units_that_are_tied_stay_or_go_as_one() -> None:
    """With structure.channels two layers that write one stream keep the same units, chosen by both of their scores."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.one(x) + self.two(x)))

    net, x = Sum(), torch.randn(8, 4)
    units = structure.channels(coupling.trace(net, x))
    pruner = Pruner(net, methods.movement(0.5, end=4, every=1, structure=units))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pruner.adopt(optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x), torch.arange(8) % 3).backward()
        optimizer.step()
    masks = pruner.finish()
    assert torch.equal(masks["one.weight"], masks["two.weight"]) and masks["out.weight"].all()
    assert int(masks["one.weight"].any(1).sum()) == 3
