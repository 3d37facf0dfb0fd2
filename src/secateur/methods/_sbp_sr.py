"""SBP-SR: SNIP's criterion on a stable network; survivors of plain ones rescaled to where signals carry."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.repairs.restored import rescaled


def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(weight, grad, out=out).abs_()


def sbp_sr(density: float, *, rescale: bool = False) -> Method:
    """Keep the weights with the largest |w ∂L/∂w| of a network in which signals carry: no layer is emptied there.

    Sensitivity-based pruning empties whole layers of a deep network away from the edge of chaos. Draw the weights there
    (`signals.edge_of_chaos_`) and let residual branches be y = x + F(x)/√L, L their number (a stable ResNet). Then the
    criterion is SNIP's, and the sum keeps the pruned network at the edge.

    Args:
        density: the fraction that stays.
        rescale: for networks without such sums, multiply the survivors of each layer by √(Σ w² / Σ (m ⊙ w)²)
            (`repairs.restored.rescaled`).

    Family: at initialisation.
    Source: Hayou, Ton, Doucet & Teh, "Robust pruning at initialization", ICLR 2021, arXiv 2002.08797, §3 and §4.
    Deviates: which network it is (weights at the edge, stable branches) is yours to bring; the rescaling goes back to
    the dense layer's own Σ w².
    """
    return method(
        "sbp_sr",
        score,
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
        repair=rescaled() if rescale else None,
    )
