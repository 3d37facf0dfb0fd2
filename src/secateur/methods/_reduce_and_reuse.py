"""Reduce and reuse: channels that hardly vary go, and are said by the others."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Repair, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import columns
from secateur.measures import input_variance
from secateur.repairs import mixed_columns


def score(variance: Tensor) -> Tensor:
    return variance


def reduce_and_reuse(density: float, *, scope: Scope | None = None, repair: Repair | None = None) -> Method:
    """Keep the input channels of each layer that vary most, and express those that are gone by those that stay.

    A = argmin ‖x_gone − A x_kept‖² over all samples and places is a 1×1 convolution in front of the layer, folded into
    its weights: W_kept + W_gone A. Needs inputs alone. Its masks are columns of what reads; `shrink(model, masks,
    example)` takes the filters that made them along. The first layer's inputs are the data: leave it out with `only=`.

    Args:
        density: the fraction of each layer's input channels that stays.
        scope: who competes; each layer for itself by default.
        repair: what the survivors do; the mixture A by default.

    Family: after training.
    Source: Polyak & Wolf, "Channel-level acceleration of deep face representations", IEEE Access 3, 2015, §III, from
    memory; filter pruning sets itself apart from it (arXiv 1608.08710, §2).
    Deviates: the mixture is of what the next layer reads, behind the activation, so that it can be folded in exactly,
    where the paper inserts a layer; no intercept; layers are not fine-tuned one by one.
    """
    return method(
        "reduce_and_reuse",
        measured(score, {"variance": input_variance()}),
        structure=columns(),
        scope=scope or layerwise(),
        schedule=once(density),
        repair=repair or mixed_columns(),
    )
