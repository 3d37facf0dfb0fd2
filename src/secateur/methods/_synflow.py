"""SynFlow: data-free pruning that never cuts the flow."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import exponential
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights


def score(weight: Tensor, flow: Tensor) -> Tensor:
    return flow * weight.abs()


def synflow(density: float, *, rounds: int = 100) -> Method:
    """Keep the weights that carry the most synaptic flow, in many rounds, without any data.

    R = 1ᵀ (∏_l |W^[l]|) 1 and s = |w| ∂R/∂|w| (float64). Scores are conserved: in a chain without skips every layer
    has the same total R, so an iterated schedule empties no layer as long as one weight per layer is asked for.
    ρ_t = ρ^{t/T} for t = 1…T (`rounds`). Only the shape of one input batch is used.

    Family: at initialisation.
    Source: Tanaka, Kunin, Yamins & Ganguli, NeurIPS 2020, arXiv 2006.05467, eq. 2 and Algorithm 1.
    Deviates: float64 throughout and no biases in the flow (see `measures.flow`); the authors' code runs one round by
    default, in float32. Softmax attention is not homogeneous: query and key weights get score 0.
    """
    return method(
        "synflow",
        score,
        structure=weights(),
        scope=everywhere(),
        schedule=exponential(density, rounds=rounds),
    )
