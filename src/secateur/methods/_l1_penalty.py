"""L1: a price on the size of every weight while the network trains, then a cut, then training without the price."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, method
from secateur.axes.penalty import l1
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def l1_penalty(
    density: float,
    *,
    until: int,
    strength: float = 3e-3,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Train under λ‖w‖₁ until small weights are exactly zero, keep the largest, and train those without the price.

    After each optimizer step w ← sign(w)·max(|w| − ηλ, 0), η the learning rate of that step: the proximal operator of
    ηλ‖w‖₁. At step `until` the κ largest |w| stay; after it λ = 0, so that survivors grow back to their size (debias).

    Args:
        density: the fraction that stays.
        until: the step of the cut, and the last with the price.
        strength: λ. Too weak, the cut goes through living weights; too strong, fewer than κ are alive.
        scope: who competes; everywhere by default.
        structure: what is cut as one, by Σ|w|; single weights by default.

    Family: during training.
    Source: Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B 58, 1996; the proximal step: Parikh &
    Boyd, "Proximal algorithms", 2014, §6.5.2; for networks of today beside Han et al., arXiv 1506.02626, §3.1.
    Deviates: exactly κ weights stay where the price alone would leave as many as it leaves; biases do not pay. λ is
    chosen on MNIST, LeNet-300-100 at 5 %, SGD with momentum 0.9.
    """
    return method(
        "l1_penalty",
        score,
        structure=structure or weights(),
        scope=scope or everywhere(),
        schedule=once(density, at=until),
        penalty=l1(strength),
    )
