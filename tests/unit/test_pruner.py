"""Pruner: gradual pruning in an ordinary training loop."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import Pruner, methods, schedule
from secateur._base.errors import EarlyFinishWarning, EmptyLayerWarning, SecateurError
from secateur.selection import kept_count

X, Y = torch.randn(40, 12), torch.arange(40) % 3


def _model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))


def _train(model: nn.Module, steps: int, optimizer: torch.optim.Optimizer, observe=lambda step: None) -> None:
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        observe(step)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


PLAN = schedule.cubic(0.1, begin=2, end=12, every=5)


def test_density_follows_the_schedule_and_zeros_stay() -> None:
    model = _model()
    pruner = Pruner(model, methods.magnitude(0.1, schedule=PLAN))
    seen = {}

    def observe(step: int) -> None:
        alive = sum(int((model.get_parameter(n) != 0).sum()) for n in pruner.masks)
        seen[step] = (pruner.masks.kept, alive)

    _train(model, 15, _sgd(model), observe)
    size = pruner.masks.numel
    assert pruner.step == 15
    for step, (kept, alive) in seen.items():
        target = max((s for s, _ in PLAN.milestones if s <= step), default=None)
        expected = size if target is None else kept_count(dict(PLAN.milestones)[target], size)
        assert kept == expected and alive <= kept, f"step {step}"
    assert pruner.finish().kept == kept_count(0.1, size)


def test_masks_only_tighten() -> None:
    model = _model()
    pruner = Pruner(model, methods.magnitude(0.1, schedule=PLAN))
    history = [pruner.masks]
    _train(model, 12, _sgd(model), lambda step: history.append(pruner.masks))
    assert all(later & earlier == later for earlier, later in itertools.pairwise(history))


def test_snip_from_training_gradients_equals_the_score_of_that_step() -> None:
    model = _model()
    pruner = Pruner(model, methods.snip(0.2).__class__(
        "snip", methods.snip(0.2).score, methods.snip(0.2).structure, methods.snip(0.2).scope, schedule.once(0.2, at=1)
    ))  # fmt: skip
    twin = copy.deepcopy(_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _train(model, 1, optimizer)
    F.cross_entropy(twin(X), Y).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    scores = torch.cat([(p.grad * p).abs().flatten() for n, p in twin.named_parameters() if "weight" in n])
    kept = torch.cat([mask.flatten() for mask in pruner.masks.values()])
    assert scores[kept].min() >= scores[~kept].max()


def test_batches_of_ones_own_leave_the_training_untouched() -> None:
    first, second = _model(), _model()
    plan = methods.snip(0.2)
    at_zero = Pruner(first, plan, [(X, Y)])  # once(0.2): before the first step
    assert at_zero.masks.kept == kept_count(0.2, at_zero.masks.numel)
    from secateur import hold, prune

    hold(second, prune(second, plan, [(X, Y)]))
    for model in (first, second):
        _train(model, 5, _sgd(model))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_checkpoint_continues_in_the_same_bits() -> None:
    whole = _model()
    pruner = Pruner(whole, methods.magnitude(0.1, schedule=PLAN))
    optimizer = _sgd(whole)
    _train(whole, 6, optimizer)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), pruner.state_dict()))
    _train(whole, 8, optimizer)

    resumed = _model()
    again = Pruner(resumed, methods.magnitude(0.1, schedule=PLAN))
    resumed.load_state_dict(saved[0])
    fresh = _sgd(resumed)
    fresh.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    _train(resumed, 8, fresh)
    assert again.masks == pruner.masks
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_finishing_early_warns_and_says_where() -> None:
    model = _model()
    pruner = Pruner(model, methods.magnitude(0.1, schedule=PLAN))
    _train(model, 3, _sgd(model))
    with pytest.warns(EarlyFinishWarning, match=r"after 3 optimizer steps, .* ends at step 12: density is 1"):
        pruner.finish()


def test_after_finish_training_is_free_again() -> None:
    model = _model()
    pruner = Pruner(model, methods.magnitude(0.5))
    masks = pruner.finish()
    _train(model, 2, _sgd(model))
    assert any(bool((model.get_parameter(n)[~m] != 0).any()) for n, m in masks.items())


def test_methods_that_training_cannot_serve_are_refused() -> None:
    with pytest.raises(SecateurError, match="force brings pruned weights back"):
        Pruner(_model(), methods.force(0.1))
    with pytest.raises(SecateurError, match="'flow' cannot be measured from a training step's gradients"):
        Pruner(_model(), methods.synflow(0.1))


def test_an_emptied_layer_is_reported_at_its_milestone() -> None:
    model = _model()
    with torch.no_grad():
        model[2].weight.mul_(1e-9)
    with pytest.warns(EmptyLayerWarning, match=r"2\.weight"):
        Pruner(model, methods.magnitude(0.1))
