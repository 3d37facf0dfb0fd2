"""Scores made in the memory of their evidence: only where nobody else can see it, and with the same masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import batch, mlp
from secateur import Pruner, method, methods, prune, schedule, scope, structure
from secateur._base.alone import held_alone
from secateur.axes import Method, Moment, Score, measured
from secateur.axes.regrow import constant, drop_and_grow
from secateur.axes.repair import redraw
from secateur.measures import Measure, Needs, Probe, Running, gather
from secateur.pruning import choose
from secateur.selection import kept_count

# --- whose memory it is -----------------------------------------------------------------------------------------------


def test_a_tensor_that_only_the_dictionary_holds() -> None:
    held = {"w": torch.ones(4, 3)}
    assert held_alone(held, "w")
    another = held["w"]
    assert not held_alone(held, "w")
    del another
    assert held_alone(held, "w")


whole = torch.ones(3, 4)
OTHERS: dict[str, Callable[[], Tensor]] = {
    "a view of it": lambda: whole.view(12),
    "detached": lambda: whole.detach(),
    "a part": lambda: torch.ones(3, 4)[1:],
    "expanded": lambda: torch.ones(3, 1).expand(3, 4),
    "not contiguous": lambda: torch.ones(3, 4).T,
    "an array": lambda: torch.from_numpy(np.ones(4)),
    "shared with processes": lambda: torch.ones(4).share_memory_(),
    "negated": lambda: torch._neg_view(torch.ones(4)),  # pyright: ignore[reportPrivateImportUsage]
    "with a graph": lambda: torch.ones(4).requires_grad_(),
    "a parameter": lambda: nn.Parameter(torch.ones(4)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_hold_as_well_or_is_no_memory_of_its_own(name: str) -> None:
    held = {"w": OTHERS[name]()}
    assert not held_alone(held, "w")


def test_two_entries_with_one_memory() -> None:
    grad = torch.ones(4)
    assert not held_alone({"a": grad, "b": grad}, "a")
    held = {"a": grad, "b": grad.detach()}
    del grad
    assert not held_alone(held, "a") and not held_alone(held, "b")


# --- where scores are made --------------------------------------------------------------------------------------------


def noting(where: list[bool]) -> Callable[..., Tensor]:
    """SNIP's score, which notes whether it was given memory."""

    def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
        where.append(out is not None)
        assert out is None or out is grad
        return torch.mul(weight, grad, out=out).abs_()

    return score


def toy(where: list[bool], score: Score | None = None, **choices: Any) -> Method:
    parts: dict[str, Any] = {"structure": structure.weights(), "scope": scope.everywhere()}
    return method("toy", score or noting(where), **{**parts, "schedule": schedule.once(0.3), **choices})


def by_hand(model: nn.Module, grads: dict[str, Tensor], density: float = 0.3) -> dict[str, Tensor]:
    scores = {name: (model.get_parameter(name) * grad).abs() for name, grad in grads.items()}
    flat = torch.cat([tensor.flatten() for tensor in scores.values()])
    cut = flat.sort(descending=True).values[kept_count(density, len(flat)) - 1]
    return {name: tensor >= cut for name, tensor in scores.items()}


def test_the_gradient_is_written_over_where_nobody_reads_it_again() -> None:
    where: list[bool] = []
    model = mlp()
    loss = F.cross_entropy(model(batch(0)[0]), batch(0)[1])
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    grads = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    wanted = by_hand(model, dict(zip(names, grads, strict=True)))
    found = prune(model, toy(where), [batch(0)])
    assert where == [True] * len(names)
    assert all(torch.equal(found[name], wanted[name]) for name in names)


def test_later_readers_keep_the_gradient_as_it_is() -> None:
    where: list[bool] = []
    prune(mlp(), toy(where, repair=redraw()), [batch(0)])
    model, alive = mlp(), dict(prune(mlp(), methods.magnitude(0.3)))
    grown = toy(where, regrow=drop_and_grow(measured(lambda grad: grad.abs()), constant(0.25)))
    params = {name: model.get_parameter(name) for name in alive}
    choose(grown, Moment(3, 0.3, params, alive, evidence=gather(model, [batch(0)], grown.measures, params=params)))
    assert where == [False] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_halves_are_scored_in_the_float32_of_their_gradient(dtype: torch.dtype) -> None:
    where: list[bool] = []
    inputs, targets = batch(0)
    prune(mlp().to(dtype), toy(where), [(inputs.to(dtype), targets)])
    assert all(where)


class Narrow(Running):
    """Float32 evidence, whatever the weights are."""

    def update(self, probe: Probe) -> None:
        self.fold({name: weight.float() + 1 for name, weight in probe.weights.items()})


def test_a_result_of_another_type_is_not_rounded_into_it() -> None:
    where: list[bool] = []
    narrow = Measure("grad", Narrow, needs=Needs.NOTHING, reduction=None)
    prune(mlp(), toy(where, score=measured(noting(where), {"grad": narrow})))
    assert where == [False, False]


# --- what a user can see of it ----------------------------------------------------------------------------------------


def test_gradients_that_a_hook_keeps_stay_as_they_were() -> None:
    model, seen = mlp(), []
    copies: list[Tensor] = []
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: (seen.append(grad), copies.append(grad.clone()), None)[-1])
    prune(model, methods.snip(0.3), [batch(0)])
    assert len(seen) == 2 and all(torch.equal(one, other) for one, other in zip(seen, copies, strict=True))


class _Given(torch.autograd.Function):
    """A product with a scale whose gradient is a tensor of the user's own."""

    own = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return (weight * _Given.own).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Given.own


def test_a_gradient_that_is_a_tensor_of_the_users_stays_as_it_was() -> None:
    model, before = nn.Linear(6, 4), _Given.own.clone()
    prune(model, methods.snip(0.3), [(torch.ones(1, 6), None)], loss=lambda out, _: _Given.apply(model.weight))
    assert torch.equal(_Given.own, before)


class Twice(nn.Module):
    """Two weights that are added: autograd hands both the same gradient, or one expanded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.one.weight + self.other.weight)


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda out, _: out.sum()], ids=["one buffer", "sum"])
def test_one_gradient_for_two_weights(loss: Any) -> None:
    model, data = Twice(), (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), torch.arange(3))
    grads = torch.autograd.grad(loss(model(data[0]), data[1]), list(model.parameters()))
    wanted = by_hand(model, {"one.weight": grads[0].clone(), "other.weight": grads[1].clone()})
    found = prune(model, methods.snip(0.3), [data], loss=loss)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_training_step_keeps_its_gradients() -> None:
    model = mlp()
    pruner = Pruner(model, toy([], schedule=schedule.once(0.3, at=1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = parameter != 0
        assert parameter.grad is not None and torch.equal(parameter.grad[kept], before[name][kept])
    pruner.finish()
