"""Gradual thresholds against algorithm 1 written out: the threshold step by step, nested masks, where it ends."""

from __future__ import annotations

import itertools

import pytest
import torch

from online_cases import after_step, mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, methods
from secateur.gates import rising

BEGIN, RAMP, END, EVERY, AIM = 3, 9, 21, 2, 0.3


def _epsilon(step: int, q: float) -> float:
    theta = 2 * q * EVERY / (2 * (RAMP - BEGIN) + 3 * (END - RAMP))
    phi = 1.5 * theta
    if step < RAMP:
        return theta * (step - BEGIN + 1) / EVERY
    return (theta * (RAMP - BEGIN + 1) + phi * (step - RAMP + 1)) / EVERY


def test_masks_follow_the_threshold_and_are_nested() -> None:
    model = mlp()
    pruner = Pruner(model, methods.narang(begin=BEGIN, ramp=RAMP, end=END, every=EVERY, aim=AIM))
    optimizer = sgd(model)
    stepped = after_step(model, optimizer)
    masks, q, history = dict(pruner.masks), {}, [pruner.masks]
    for t in range(1, END + 4):
        train(model, optimizer, t)
        if t == BEGIN:
            q = {name: float(stepped[name].abs().flatten().sort().values[round(0.7 * masks[name].numel()) - 1])
                 for name in masks}  # fmt: skip
        if BEGIN <= t < END and t % EVERY == 0:
            masks = {name: mask & (stepped[name].abs() > _epsilon(t, q[name])) for name, mask in masks.items()}
        for name, mask in pruner.masks.items():
            assert torch.equal(mask, masks[name]), f"{name} at step {t}"
        history.append(pruner.masks)
    assert all(later & earlier == later for earlier, later in itertools.pairwise(history))
    assert history[-1].density < 0.9
    final = pruner.finish()
    assert all(torch.equal(final[name], masks[name]) for name in masks)


def test_the_threshold_ends_near_the_quantile() -> None:
    weight = torch.nn.Parameter(torch.randn(40, 25, generator=torch.Generator().manual_seed(0)))
    gate = rising(aim=0.1, begin=100, ramp=500, end=1100, every=10)("w", weight)
    q = weight.detach().abs().flatten().sort().values[899]
    assert gate.threshold(1099) == pytest.approx(float(q), rel=0.01)
    assert gate.threshold(100) < gate.threshold(500) < gate.threshold(1000)


def test_defaults_fit_any_end() -> None:
    for end in (1, 2, 8, 900, 100_000):
        assert methods.narang(end=end).schedule.milestones[-1].step == end


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="0 <= begin <= ramp < end"):
        methods.narang(end=10, begin=12)
    with pytest.raises(SecateurError, match="every >= 1"):
        methods.narang(end=10, every=0)
    with pytest.raises(SecateurError, match=r"`aim` must be in \(0, 1\]"):
        methods.narang(end=10, aim=1.5)
