"""LWC: learning both weights and connections; cut each layer below a multiple of its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from secateur.axes import Method, Schedule, method
from secateur.axes.schedule import once
from secateur.axes.scope import above
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def lwc(*, quality: float | Mapping[str, float] = 1.0, schedule: Schedule | None = None) -> Method:
    """Cut what is small against the spread of its layer, then retrain what is left. How much stays, comes out.

    Keep |w| ≥ q_l·σ_l, with σ_l the standard deviation of the weights of layer l that are still there, about zero. Of
    normally distributed weights q = 1 keeps 1 − erf(1/√2) = 31.7 %. For a trained network: train, cut, retrain with the
    surviving values, as often as it pays (`prune(…, masks=…)` goes on from the last cut).

    Args:
        quality: q, one for all layers or by name or glob, `{"conv*": 0.7, "fc*": 1.2}`; layers not named stay whole.
        schedule: when, for a `Pruner`: `schedule.steady(None, …)`; by default once.

    Family: after training.
    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §3.
    Deviates: σ is taken about zero and over surviving weights only (the paper does not say; with the zeros in it the
    threshold would shrink from round to round); a weight exactly at the threshold stays.
    """
    return method("lwc", score, structure=weights(), scope=above(quality), schedule=schedule or once(None))
