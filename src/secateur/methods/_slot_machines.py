"""Slot machines: each weight may be one of a few fixed values, and training only chooses."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import slot_machines as machines


def slot_machines(*, slots: int = 8, zero: bool = True, sampled: bool = False, scale: float = 0.1) -> Method:
    """Learn which of K fixed random values each weight takes; with 0 among them, some weights go.

    Forward with the value whose score is best (or that is drawn by the softmax of the scores); the gradient of that
    value goes straight to its score, ∂L/∂s_k = ∂L/∂w · v_k. The first value is the weight's own, the others are drawn
    with the layer's deviation, the last is 0. Values never change. The density emerges.

    Args:
        slots: K, all values counted.
        zero: whether 0 is one of them; without it nothing is pruned. K = 2 with 0 is a supermask.
        sampled: draw by the softmax after each step, with the Pruner's generator, rather than take the best.
        scale: scores begin uniform in [0, scale].

    Family: during training.
    Source: Aladago & Torresani, arXiv 2101.06475, §3, and the description of the authors' code.
    Deviates: the value 0 is ours, so that the choice prunes; values other than the weight's own are normal; one draw
    after each step, that of the last one stays; the scale of the scores is from memory; biases and batch norm
    are trained.
    """
    return method(
        "slot_machines",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None),
        relax=machines(slots=slots, zero=zero, sampled=sampled, scale=scale),
    )
