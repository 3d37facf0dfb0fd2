"""Scores of models held in halves are those of the same weights in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import Method, Pruner, measures, method, methods, prune, schedule, scope, scores, structure
from secateur.measures import at_least_float32, gather

HALVES = [torch.float16, torch.bfloat16]
PLANS = [methods.snip(0.1), methods.grasp(0.1), methods.obd(0.1)]


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 40), nn.Linear(40, 10)
    return nn.Sequential(*layers).to(dtype)


def batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 8, 8, generator=generator).to(dtype), torch.arange(16) % 10


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_halves_are_scored_as_their_values_in_float32(dtype: torch.dtype, plan: Method) -> None:
    half = network(dtype)
    x, y = batch(dtype)
    found = scores(half, plan, [(x, y)], generator=torch.Generator().manual_seed(2))
    expected = scores(copy.deepcopy(half).float(), plan, [(x.float(), y)], generator=torch.Generator().manual_seed(2))
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_model_is_as_found(dtype: torch.dtype) -> None:
    model = network(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores(model, methods.snip(0.1), [batch(dtype)])
    after = model.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
    assert dict(model.named_buffers())["1.running_mean"] is model[1].running_mean  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_mask_does_not_depend_on_the_scale_of_the_loss(dtype: torch.dtype) -> None:
    plan = methods.snip(0.05)
    masks = [
        prune(network(dtype), plan, [batch(dtype)], loss=lambda o, t, s=scale: F.cross_entropy(o.float(), t) * s)
        for scale in (1.0, 2.0**-12)  # exact in every dtype, and far below what float16 gradients reach
    ]
    assert masks[0] == masks[1]


@pytest.mark.parametrize("dtype", HALVES)
def test_evidence_adds_up_in_float32(dtype: torch.dtype) -> None:
    """256 + 1 is 256 in bfloat16, and (1/4096)² is 0 in float16."""
    model = nn.Linear(2, 1, bias=False).to(dtype)
    batches = [(torch.full((1, 2), value, dtype=dtype), torch.zeros(1, 1)) for value in (256.0, 1.0, 1 / 4096)]
    params = dict(model.named_parameters())
    wanted = [measures.grad(), measures.fisher()]
    found = gather(model, batches, wanted, params=params, loss=lambda output, target: output.sum())
    assert found["grad"]["weight"].tolist() == [[257 + 2**-12] * 2]
    small = gather(model, batches[2:], wanted, params=params, loss=lambda output, target: output.sum())
    assert small["fisher"]["weight"].tolist() == [[2.0**-24] * 2]


def test_gradients_of_training_in_halves_are_taken_up_in_float32() -> None:
    model = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    plan = schedule.once(0.5, at=3)
    fisher = method("f", lambda fisher: fisher, structure=structure.weights(), scope=scope.layerwise(), schedule=plan)
    pruner = Pruner(model, fisher)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for left, right in ((16.0, 16.0), (0.0, 1.0), (0.0, 0.0)):  # 256 + 1 would be 256
        optimizer.zero_grad()
        model(torch.tensor([[left, right]], dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert pruner.finish()["weight"].tolist() == [[False, True]]


def test_wider_tensors_are_not_copied() -> None:
    for dtype in (torch.float32, torch.float64):
        tensor = torch.zeros(3, dtype=dtype)
        assert at_least_float32(tensor) is tensor
