"""NTT: neural tangent transfer, a sparse network that begins where the dense one does, without labels."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import weights
from secateur.repairs import Solved
from secateur.signals import transferred


def score(transferred: Tensor) -> Tensor:
    return transferred.abs()


def ntt(
    density: float,
    *,
    rounds: int = 20,
    every: int = 100,
    rate: float = 5e-4,
    kernel: float = 1e-3,
    decay: float = 1e-4,
) -> Method:
    """Find sparse weights whose outputs and tangent kernel are those of the dense network before training; no labels.

    min λ·mean (Θ_s − Θ_t)² + mean ‖f_s − f_t‖² + (λ₂/ρ)‖m ⊙ W‖² over W by Adam, f_s with m ⊙ W, m the largest |W| of
    each layer, found anew every so many steps. The survivors take the values that were found.

    Args:
        density: ρ, of each layer.
        rounds: how often m is found anew.
        every: steps in between; the batches are taken in turns. The authors train for 20 epochs of batches of 64.
        rate: of Adam.
        kernel: λ.
        decay: λ₂; 1e-5 for convolutional networks.

    Family: at initialisation.
    Source: Liu & Zenke, ICML 2020, arXiv 2006.08228, §3, and the authors' code.
    Deviates: the kernels are compared along one random direction a step, the expectation of which is the same and
    which needs no Jacobians; biases are left out of the penalty, as in the code. Biases stay as they are in the end.
    """
    solution = transferred(keep=density, rounds=rounds, every=every, rate=rate, kernel=kernel, decay=decay)
    return method(
        "ntt",
        measured(score, {"transferred": solution}),
        structure=weights(),
        scope=layerwise(),
        schedule=once(density),
        repair=Solved(solution),
    )
