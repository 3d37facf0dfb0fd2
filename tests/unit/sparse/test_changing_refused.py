"""Holds and compiled steps: what the two tell one another, and what cannot work is refused by name."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import secateur as sc
from secateur import MaskError, Masks, Pruner, SecateurError, hold, methods
from secateur._base import door
from secateur.sparse import UnsupportedError, compile_step, why_no_fused_step

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


X, Y = torch.randn(24, 20, generator=torch.Generator().manual_seed(5)), torch.arange(24) % 4


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def summed() -> sc.Method:
    score = sc.measured(lambda fisher: fisher, {"fisher": sc.measures.fisher()})
    return sc.method(
        "summed", score, structure=sc.structure.weights(), scope=sc.scope.everywhere(),
        schedule=sc.schedule.once(0.5, at=5),
    )  # fmt: skip


GATED = "puts gates on the weights, which the sparse engine does not compute"
SUMMED = "summed looks at the gradients of pruned weights at every step"


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (lambda: methods.l0(strength=1e-3), f"l0 {GATED}"),
        (lambda: methods.dns(until=9), f"dns {GATED}"),
        (summed, SUMMED),
    ],
)
def test_methods_that_need_every_step_are_refused_by_name(method: object, why: str) -> None:
    model = net()
    pruner = Pruner(model, method())  # type: ignore[operator]
    optimizer = sgd(model)
    found = why_no_fused_step(model, pruner.masks, cross_entropy, optimizer)
    assert found is not None and found.startswith(why)
    with pytest.raises(UnsupportedError, match=re.escape(why)):
        compile_step(model, pruner.masks, cross_entropy, optimizer)
    pruner.release()
    assert why_no_fused_step(model, Masks({"0.weight": X[:16] > 0}), cross_entropy, sgd(model)) is None


def test_such_a_pruner_over_a_compiled_step_stops_it_before_anything_is_trained() -> None:
    model = net()
    masks = Masks({"0.weight": torch.ones(16, 20, dtype=torch.bool)})
    step = compile_step(model, masks, cross_entropy, sgd(model))
    step(X, Y)
    pruner = Pruner(model, summed())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedError, match=SUMMED):
        step(X, Y)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    pruner.release()
    step(X, Y)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_masks_other_than_those_held_are_refused() -> None:
    model = net()
    bits = torch.rand(16, 20, generator=torch.Generator().manual_seed(3)) < 0.4
    held = hold(model, Masks({"0.weight": bits}))
    with pytest.raises(MaskError, match=r"'0\.weight' is held by another mask than the one given for it"):
        compile_step(model, Masks({"0.weight": ~bits}), cross_entropy, sgd(model))
    with pytest.raises(MaskError, match=r"held\.replace\(masks\)"):
        compile_step(model, Masks({"2.weight": torch.ones(4, 16, dtype=torch.bool)}), cross_entropy, sgd(model))
    step = compile_step(model, held.masks, cross_entropy, sgd(model))
    step(X, Y)
    with pytest.raises(MaskError, match=r"'0\.weight' is held by another mask"):
        step.replace(Masks({"0.weight": ~bits}))
    assert step.masks == held.masks
    held.replace(Masks({"0.weight": ~bits}))
    assert step.masks == held.masks
    step(X, Y)
    held.check()
    held.release()
    step.replace(Masks({"0.weight": bits}))
    step(X, Y)
    assert not model.state_dict()["0.weight"][~bits].any()


def test_a_pruner_made_after_the_step_is_followed_too() -> None:
    def masks(late: bool) -> Masks:
        model = net()
        full = Masks(
            {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
        )
        optimizer, plan = sgd(model), methods.rigl(density=0.4, until=20, every=3)
        generator = torch.Generator().manual_seed(1)
        if late:
            step = compile_step(model, full, cross_entropy, optimizer)
            pruner = Pruner(model, plan, generator=generator)
        else:
            pruner = Pruner(model, plan, generator=generator)
            step = compile_step(model, pruner.masks, cross_entropy, optimizer)
        for _ in range(10):
            step(X, Y)
        assert pruner.step == 10 and step.masks == pruner.masks
        pruner.release()
        return pruner.masks

    assert masks(late=True) == masks(late=False)


def test_on_step_is_called_and_check_and_project_see_what_was_trained() -> None:
    model = net()
    bits = torch.rand(16, 20, generator=torch.Generator().manual_seed(3)) < 0.4
    calls: list[int] = []
    held = hold(model, Masks({"0.weight": bits}), on_step=calls.append)
    step = compile_step(model, held.masks, cross_entropy, sgd(model))
    start = model.get_parameter("0.weight").detach().clone()
    for _ in range(3):
        step(X, Y)
    assert calls == [1, 2, 3]
    held.check()
    assert not torch.equal(model.get_parameter("0.weight"), start)
    step(X, Y)
    held.project()
    trained = model.get_parameter("0.weight").detach().clone()
    step(X, Y)
    step.write_back()
    assert not torch.equal(model.get_parameter("0.weight"), trained) and calls == [1, 2, 3, 4, 5]


def test_a_refusal_at_a_change_leaves_the_model_as_trained() -> None:
    model = net()
    plan = methods.magnitude(density=0.003, schedule=sc.schedule.once(0.003, at=3))
    pruner = Pruner(model, plan, allow_empty=False)
    step = compile_step(model, pruner.masks, cross_entropy, sgd(model))
    with pytest.raises(SecateurError, match="allow_empty=False"):
        for _ in range(5):
            step(X, Y)
    assert pruner.step == step.steps == 3 and pruner.masks.density == 1
    twin = net()
    pruner.release()
    alone = compile_step(twin, step.masks, cross_entropy, sgd(twin))
    for _ in range(3):
        alone(X, Y)
    assert step(X, Y) == alone(X, Y)


def test_gradients_that_the_user_keeps_stay_his() -> None:
    model = net()
    pruner = Pruner(model, methods.rigl(density=0.4, until=20, every=2))
    step = compile_step(model, pruner.masks, cross_entropy, sgd(model))
    mine = torch.full((16, 20), 7.0)
    model.get_parameter("0.weight").grad = mine
    with torch.no_grad():  # steps need no autograd of their own
        for _ in range(5):
            step(X, Y)
    assert model.get_parameter("0.weight").grad is mine and bool((mine == 7).all())
    assert model.get_parameter("2.weight").grad is None


def test_what_a_following_step_holds_does_not_grow() -> None:
    model = net()
    pruner = Pruner(model, methods.rigl(density=0.4, until=10_000, every=1))
    step = compile_step(model, pruner.masks, cross_entropy, sgd(model))
    sizes = []
    for _ in range(12):
        step(X, Y)
        sizes.append((step.training_bytes, step.parameter_bytes, step.room_bytes))
    assert len(set(sizes[2:])) == 1
