"""SSL: structured sparsity learning; whole filters, channels, filter shapes or layers are trained to zero."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import floored, threshold
from secateur.axes.structure import filters, whole
from secateur.penalties import around, group_lasso

_ZERO = 1e-4  # the authors' code takes smaller weights for zero


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def ssl(*, until: int, strength: float = 3e-3, structure: Structure | None = None) -> Method:
    """Let every group of weights pay its norm, so that groups die as one, and cut those that have. Density emerges.

    Minimise L + λ Σ_l Σ_g ‖w_g‖₂ until step `until`; after each step, weights with |w| < 1e-4 are set to zero. Then the
    groups that are all zero are cut, and the others train on without the price.

    Args:
        until: the step of the cut, and the last with the price.
        strength: λ. A group dies only where its step is short: ηλ/√P, for a group of P weights, below the 1e-4.
        structure: the groups g. `filters()` (the default), `columns()` for the paper's channels, `shapes()` for filter
            shapes, `whole()` for depth, or your own. Shapes are of convolutions alone, and whole layers may go only
            where the network, traced by torch.fx, has a way around all of them: else the model is refused; narrow it
            with `only`.

    Family: during training.
    Source: Wen, Wu, Wang, Chen & Li, "Learning structured sparsity in deep neural networks", arXiv 1608.03665, eqs. 1
    to 6; the threshold is that of the authors' Caffe branch.
    Deviates: one kind of group at a time; groups of several kinds overlap and would need a mask of each. At least one
    group of every layer stays, but for `whole()`. λ is chosen on MNIST, without weight decay.
    """
    groups = structure or filters()
    depth = groups.name == whole().name
    return method(
        "ssl",
        score,
        structure=groups,
        scope=threshold(_ZERO) if depth else floored(threshold(_ZERO), at_least=1),
        schedule=once(None, at=until),
        penalty=group_lasso(strength, groups, clamp=_ZERO, reach=around if depth else None),
    )
