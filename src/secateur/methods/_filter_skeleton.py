"""Pruning filter in filter: learn a skeleton for each filter, and cut the stripes where it is thin."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import stripes
from secateur.gates import skeletons


def filter_skeleton(*, strength: float = 1e-5, threshold: float = 0.01) -> Method:
    """Learn which positions of each filter's kernel matter, and cut the others over all inputs.

    Minimise L(W ⊙ I) + α‖I‖₁ over W and I, I of shape [out, 1, k, k] from 1 on. After each step entries with |I| ≤ δ
    become 0 and stay so. At the end I is folded into W; there is no fine-tuning. The density emerges.

    Args:
        strength: α; the authors' on CIFAR-10.
        threshold: δ.

    Family: during training.
    Alias: swp.
    Source: Meng et al., arXiv 2009.14410, §3 and the authors' code.
    Deviates: matrices (linear, recurrent and attention layers), which the authors leave alone, have one stripe for each
    output: leave them out with `only`. As in the code, weight decay acts on I as on weights; the last step is
    evaluated, not the best epoch on the test set.
    """
    return method(
        "filter_skeleton",
        None,
        structure=stripes(),
        scope=scope.everywhere(),
        schedule=once(None),
        relax=skeletons(strength=strength, threshold=threshold),
    )
