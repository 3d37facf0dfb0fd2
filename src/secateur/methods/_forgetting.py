"""Structural learning with forgetting: all weights decay at one rate, then only the small ones; units become clear."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Scope, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.gates import clarified
from secateur.penalties import forgotten


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def forgetting(
    density: float,
    *,
    until: int,
    strength: float = 5e-4,
    below: float = 0.1,
    selective: int | None = None,
    clarification: float = 0.0,
    hidden: str = "*",
    scope: Scope | None = None,
) -> Method:
    """Let weights that are not used be forgotten: a constant decay, later of small weights alone; then cut.

    First J = L + ε Σ|w|. After step `selective`, J = L + ε Σ_{|w| < θ} |w|, so that what has grown is not worn down.
    With `clarification` c each hidden unit pays c·min(1 − h, h) from the start, h = σ(z) of its output z: it learns to
    be on or off. At step `until` the κ largest |w| stay, and train on without a price.

    The SNIP paper (arXiv 1810.02340, §2) names it among the penalties that it does without.

    Args:
        density: the fraction that stays.
        until: the step of the cut, and the last with a price.
        strength: ε.
        below: θ.
        selective: the last step on which all weights are forgotten; half of `until` by default.
        clarification: c; 0 asks nothing of the units, and puts no gate on the model.
        hidden: glob of the weights whose layers are clarified: name the hidden ones, outputs are not to be on or off.
        scope: who competes; everywhere by default.

    Family: during training.
    Source: Ishikawa, "Structural learning with forgetting", Neural Networks 9(3), 1996, eqs. 1 to 6, from memory.
    Deviates: clarification acts on layers' outputs before their non-linearity, as if that were a sigmoid, so that a
    ReLU's unit is asked to be clearly active or not; its gradient joins in the backward pass and is divided by the
    number of examples, and a GradScaler's scale does not reach it. ε and θ are chosen on MNIST.
    """
    begin = max(1, until // 2) if selective is None else selective
    if not 0 <= begin <= until:
        raise SecateurError(f"`selective` must be a step from 0 to until={until}, got {selective}.")
    first, second = forgotten(strength), forgotten(strength, below=below)
    gates = clarified(clarification, among=hidden)
    return method(
        "forgetting",
        None if clarification else score,
        structure=weights(),
        scope=scope or everywhere(),
        schedule=once(density, at=until),
        relax=gates if clarification else None,
        penalty=replace(first, later=(begin, second)),
    )
