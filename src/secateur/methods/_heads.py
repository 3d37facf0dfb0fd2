"""Heads of attention: those that the loss depends on least, sample by sample, are the first to go."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import attention_heads
from secateur.curvature import gate_magnitude


def score(gates: Tensor) -> Tensor:
    return gates


def heads(density: float, *, structure: Structure | None = None) -> Method:
    """Keep the heads of attention without which the loss would change most, to first order; one ranking of all layers.

    I_h = Σ_n Σ_d |∂L_n/∂ξ_hd| over samples n, ξ_hd a gate on place d of what head h gives out, by `gate_magnitude`.
    Nothing but heads goes; with grouped queries whole groups. At least one head of each layer stays. For `shrink`, that
    finds the heads: shrink(model, methods.heads(0.5), example, batches=batches).

    Args:
        density: the fraction of all heads that stays.
        structure: the units; by default `structure.attention_heads()`, which `shrink` fills in. With
            `structure.attention_heads(coupling.trace(model, example))` it works with `prune` as well.

    Family: after training.
    Source: Michel, Levy & Neubig, "Are Sixteen Heads Really Better than One?", arXiv 1905.10650, eq. 2.
    Deviates: magnitudes are summed over the places of a head, where eq. 2 has the magnitude of their sum; no ℓ2
    normalisation by layer.
    """
    return method(
        "heads",
        measured(score, {"gates": gate_magnitude()}),
        structure=structure or attention_heads(),
        scope=floored(everywhere(), at_least=1),
        schedule=once(density),
    )
