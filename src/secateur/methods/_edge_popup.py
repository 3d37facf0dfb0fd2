"""Edge-popup: never train a weight; learn which of the random ones make a good network."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import steady
from secateur.axes.structure import weights
from secateur.gates import edge_popups


def edge_popup(density: float, *, steps: int, constant: bool = False) -> Method:
    """Find a good subnetwork of a random network by learning a score for each weight; the weights stay as they are.

    Forward with w ⊙ M, M = 1 for the `density` largest |s| of each layer; backward as if M were |s|, so that every
    score learns, ∂L/∂s = ∂L/∂(w ⊙ M) ⊙ w · sign(s). M is chosen anew after each step.

    Args:
        density: the fraction of each layer that stays; about one half is best where it may be chosen.
        steps: the length of training, in optimizer steps.
        constant: use sign(w)·σ, σ the standard deviation of the layer's weights, in the place of w.

    Family: during training.
    Source: Ramanujan et al., arXiv 1911.13299, §3 and eq. 7, and the authors' code.
    Deviates: a layer keeps the nearest whole number to ρn, where the code keeps n − int((1 − ρ)n); biases and batch
    norm are trained (the authors have none of the first, and no scale and shift in the second); signed constants, with
    which their best results were had, are an option.
    """
    return method(
        "edge_popup",
        None,
        structure=weights(),
        scope=scope.layerwise(),
        schedule=steady(density, every=1, until=steps + 1),
        relax=edge_popups(constant=constant),
    )
