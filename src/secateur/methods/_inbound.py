"""Inbound pruning: from each output those kernels go whose contribution hardly varies from sample to sample."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import kernels
from secateur.curvature import kernel_variance


def score(variance: Tensor) -> Tensor:
    return variance


def inbound(density: float, *, scope: Scope | None = None) -> Method:
    """Keep the kernels between an input and an output channel whose contribution varies most, of each layer as many.

    s_oc = Var_n ‖K_oc ∗ x_c(n)‖₂ over samples n: what adds nearly the same to every sample tells them apart least. Of
    a linear layer a kernel is one weight. Needs inputs alone; fine-tune afterwards.

    Args:
        density: the fraction of each layer's kernels that stays.
        scope: who competes; each layer for itself by default.

    Family: after training.
    Source: Polyak & Wolf, "Channel-level acceleration of deep face representations", IEEE Access 3, 2015, §III, from
    memory; filter pruning sets itself apart from it (arXiv 1608.08710, §2).
    Deviates: layers are measured in the dense network, where the paper prunes and fine-tunes one by one.
    """
    return method(
        "inbound",
        measured(score, {"variance": kernel_variance()}),
        structure=kernels(),
        scope=scope or layerwise(),
        schedule=once(density),
    )
