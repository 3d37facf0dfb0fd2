"""LAMP: layer-adaptive magnitude pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import ranked_with
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.double().square()


def share_of_survivors(scores: Tensor) -> Tensor:
    """Divide each squared weight by the sum of all of its layer that are at least as large.

    u ↦ w_u² / Σ_{v: w_v² ≥ w_u²} w_v²; among equal weights the earlier index counts as smaller, so that
    the order within a layer stays the one of the magnitudes.
    """
    flat = scores.flatten()
    order = torch.argsort(flat, stable=True)
    ascending = flat[order]
    at_least_as_large = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(ascending > 0, ascending / at_least_as_large, torch.zeros_like(ascending))
    return torch.empty_like(flat).scatter_(0, order, shares).reshape(scores.shape)


def lamp(density: float) -> Method:
    """Rank weights by their share of what would be left of their layer: layer densities without a knob.

    LAMP(u) = w_u² / Σ_{v ≥ u} w_v², the sum over the weights of the same layer that are at least as large; one
    global ranking. Every layer's largest weight has score 1, so no layer is emptied while κ is at least the number
    of layers.

    Family: after training.
    Source: Lee, Park, Mo, Ahn & Shin, ICLR 2021, arXiv 2010.07611, eq. 3.
    Deviates: none known; scores are computed in float64, since the sums run over a whole layer.
    """
    return method("lamp", score, structure=weights(), scope=ranked_with(share_of_survivors), schedule=once(density))
