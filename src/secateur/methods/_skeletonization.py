"""Skeletonization: units by their relevance, how much the loss would rise without each."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters
from secateur.curvature import gate_relevance


def score(relevance: Tensor) -> Tensor:
    return relevance


def skeletonization(density: float, *, scope: Scope | None = None, structure: Structure | None = None) -> Method:
    """Keep the units of the highest relevance, ρ_k = −∂L/∂α_k, the same share of every layer.

    α_k is the attentional strength of unit k, a gate on what it gives its readers that stands at 1. To first order
    ρ_k is L without the unit minus L with it: it has a sign, and a unit that does harm goes first.

    Args:
        density: the fraction of each layer's units that stays.
        scope: who competes; each layer for itself by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Mozer & Smolensky, "Skeletonization: a technique for trimming the fat from a network via relevance
    assessment", NIPS 1988, eqs. 2 to 4; the SNIP paper sets itself apart from it (arXiv 1810.02340, §2).
    Deviates: the loss of training, where the paper has the linear error Σ|t − o|, since the squared one has no slope
    where training has ended; a sum over the batches, where the paper has a moving average; κ units at once, where
    it takes one and trains on.
    """
    return method(
        "skeletonization",
        measured(score, {"relevance": gate_relevance()}),
        structure=structure or filters(),
        scope=scope or layerwise(),
        schedule=once(density),
    )
