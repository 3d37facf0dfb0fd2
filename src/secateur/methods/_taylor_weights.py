"""Taylor pruning of 2019: the squared first-order change of the loss without a weight, or without a unit's gate."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Schedule, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters, weights
from secateur.curvature import gate_taylor
from secateur.measures import fisher


def score(weight: Tensor, squares: Tensor) -> Tensor:
    return weight.square() * squares


def of_gates(gates: Tensor) -> Tensor:
    return gates


def taylor_weights(
    density: float, *, gates: bool = False, scope: Scope | None = None, schedule: Schedule | None = None
) -> Method:
    """Keep the weights without which the loss would change most, (g w)² to first order; or units by gates on them.

    I_k = Σ_b (w_k ∂L_b/∂w_k)² over batches b, each with the gradient of its mean loss. With `gates`, units by
    I_k = Σ_b (∂L_b/∂m_k)², m_k a gate on all that reads the unit: behind its batch norm, where the paper puts it.

    Args:
        density: the fraction of weights (of units, with `gates`) that stays.
        gates: rank whole units instead of weights; `shrink` ties them.
        scope: who competes; all by default, of units at least one of each layer.
        schedule: when, for a `Pruner` with `batches`; the paper removes 100 units every 30 batches.

    Family: after training.
    Source: Molchanov, Mallya, Tyree, Frosio & Kautz, arXiv 1906.10771, eqs. 3 and 8.
    Deviates: of a filter, squares of single weights are not summed up, nor is its Σ g w squared: in front of a batch
    norm in train mode the latter is 0 whatever it does, so that units go by gates. No moving average between removals.
    """
    form = measured(of_gates, {"gates": gate_taylor()}) if gates else measured(score, {"squares": fisher(train=False)})
    among = floored(everywhere(), at_least=1) if gates else everywhere()
    return method(
        "taylor_weights",
        form,
        structure=filters() if gates else weights(),
        scope=scope or among,
        schedule=schedule or once(density),
    )
