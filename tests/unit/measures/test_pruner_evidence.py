"""A Pruner's evidence: it adds up over the steps of training, and a checkpoint carries it along."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Pruner, measures, schedule, scope, structure
from secateur._base.errors import ScoreError
from secateur.axes import Method, measured, method
from secateur.measures import Measure
from secateur.selection import topk_mask

X, Y = torch.randn(5, 16, 6), torch.arange(16) % 3
PLAN = schedule.cubic(0.3, begin=4, end=8, every=2)


def _model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _method(argument: str, measure: Measure, plan=PLAN) -> Method:
    def saliency(weight: Tensor, evidence: Tensor) -> Tensor:
        return weight.square() * evidence.abs()

    bound = measured(saliency, {"evidence": measure})
    return method(argument, bound, structure=structure.weights(), scope=scope.everywhere(), schedule=plan)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X[number % len(X)]), Y).backward()
    optimizer.step()


def test_the_fisher_of_a_milestone_is_that_of_all_steps_so_far() -> None:
    model, twin = _model(), _model()
    once = schedule.once(0.4, at=5)
    pruner = Pruner(model, _method("fisher", measures.fisher(), once))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.3) for net in (model, twin)]
    total: dict[str, Tensor] = {}
    for number in range(5):
        _step(model, optimizers[0], number)
        _step(twin, optimizers[1], number)
        for name in pruner.masks:
            grad = twin.get_parameter(name).grad
            assert grad is not None
            total[name] = total.get(name, torch.zeros_like(grad)) + grad**2
    wanted = {name: twin.get_parameter(name).detach() ** 2 * fisher for name, fisher in total.items()}
    assert dict(pruner.masks).keys() == wanted.keys()
    chosen = topk_mask(wanted, pruner.masks.kept)
    assert all(torch.equal(pruner.masks[name], chosen[name]) for name in wanted)


@pytest.mark.parametrize("measure", [measures.fisher(), measures.grad_average(decay=0.7)], ids=lambda m: m.name)
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 7])
def test_a_run_goes_on_in_the_same_bits_from_any_step(measure: Measure, cut: int) -> None:
    whole = _model()
    pruner, optimizer = Pruner(whole, _method("m", measure)), torch.optim.Adam(whole.parameters(), lr=0.05)
    for number in range(cut):
        _step(whole, optimizer, number)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), pruner.state_dict()))
    for number in range(cut, 10):
        _step(whole, optimizer, number)
    resumed = _model()
    again, fresh = Pruner(resumed, _method("m", measure)), torch.optim.Adam(resumed.parameters(), lr=0.05)
    resumed.load_state_dict(saved[0])
    fresh.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    for number in range(cut, 10):
        _step(resumed, fresh, number)
    assert again.masks == pruner.masks and again.masks.kept < again.masks.numel
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_tensor_that_training_never_reached_is_named_at_the_milestone() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = _model(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Idle()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, _method("fisher", measures.fisher(), schedule.once(0.5, at=2)))
    _step(model, optimizer, 0)
    with pytest.raises(ScoreError, match=r"There is no 'fisher' of idle\.weight: .*a branch that the forward pass"):
        _step(model, optimizer, 1)
    assert pruner.masks.density == 1
