"""Structured SNIP (SNAP): whole units by how sensitive the loss is to a gate on each."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, method
from secateur.axes.schedule import geometric, once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters


def score(weight: Tensor, grad: Tensor) -> Tensor:
    return weight * grad


def sensitivity(scores: Tensor) -> Tensor:
    """|Σ w·∂L/∂w| over a unit's weights: |∂L/∂c| of a gate c on the unit before its bias."""
    return scores.sum(1).abs()


def structured_snip(density: float, *, iterative: bool = True, structure: Structure | None = None) -> Method:
    """Keep the units to whose gates the loss is most sensitive, |∂L/∂c_k|, one ranking, at least one of each layer.

    With a gate c_k on what unit k computes from its weights, ∂L/∂c_k = Σ_j w_kj ∂L/∂w_kj.

    Args:
        density: the fraction of all units that stays.
        iterative: prune in SNIP-it's steps, each halving the distance to the target, scoring again after each.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: at initialisation.
    Source: Verdenius, Stol & Forré, arXiv 2006.00896, §3 (SNAP); single-shot: van Amersfoort et al., arXiv 2007.00389.
    Deviates: SNAP leaves out the input and output layers (narrow with `only=`), and its gate stands on a unit with its
    bias. Units in front of a batch norm in train mode have sensitivity 0, whatever they do: measure in eval mode.
    """
    return method(
        "structured_snip",
        score,
        structure=structure or filters(reduce=sensitivity),
        scope=floored(everywhere(), at_least=1),
        schedule=geometric(density) if iterative else once(density),
    )
