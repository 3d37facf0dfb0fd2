"""AutoPrune: held-out examples say which weights stay, training examples what they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import softplus

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import auxiliaries


def auto_prune(
    *,
    strength: float = 1e-5,
    rate: float = 1e-3,
    start: float = 0.1,
    surrogate: Callable[[Tensor], Tensor] = softplus,
) -> Method:
    """Learn on a held-out part of the training set which weights to keep, in turn with learning the weights.

    Forward with w ⊙ h(m), h(m) = 1 for m > 0, else 0. After each step of w on the training loss, m takes one on the
    loss of a held-out batch plus μ·Σh(m), with the straight-through estimate (arXiv 1308.3432) ∂L/∂m =
    ∂L/∂(w ⊙ h) · sign(w) · ĥ′(m): a small weight is heard as well as a large one, and one that is cut may come back.
    Pass the Pruner the held-out `batches`. The density emerges.

    Args:
        strength: μ, per weight that stays.
        rate: learning rate of m, by an Adam of its own.
        start: m at the beginning, above 0.
        surrogate: ĥ, whose slope stands for that of h; softplus, `torch.nn.functional.leaky_relu`, or none (x → x).

    Family: during training.
    Source: Xiao, Wang & Rajasekaran, "AutoPrune", NeurIPS 2019, of which no arXiv number is known to us. The update
    rule is from memory, the defaults are ours.
    Deviates: no learning rate schedule of m; one step of m for each of w.
    """
    return method(
        "auto_prune",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None),
        relax=auxiliaries(strength=strength, rate=rate, start=start, surrogate=surrogate),
    )
