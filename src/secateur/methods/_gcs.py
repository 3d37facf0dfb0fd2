"""GCS: keep the weights on which it hangs that groups of examples learn from one another's gradients."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.curvature import gradient_coupling


def score(weight: Tensor, coupling: Tensor) -> Tensor:
    return (weight * coupling).abs()


def gcs(
    density: float,
    *,
    groups: int = 2,
    by_label: bool = True,
    temperature: float = 200.0,
    train: bool | None = True,
) -> Method:
    """Keep the weights with the largest |θ ⊙ Σ_{i<j} ∂⟨g_i, g_j⟩/∂θ|: gradient coupled flow.

    g_i is the gradient of group i of each batch, with logits divided by `temperature`. GraSP multiplies a gradient with
    itself, GCS those of different groups: what goes is what matters least to learning from one for the other.

    Args:
        density: the fraction that stays.
        groups: into how many parts each batch is split.
        by_label: groups of different labels; False: each with a share of every label, as the author's command for it.
        temperature: flattens the softmax; part of the method, as in GraSP.
        train: mode while scoring; the author's code leaves BN on batch statistics (True).

    Family: at initialisation.
    Source: X. Kang, the author of the survey, github.com/kangxiatao/pruning_before_training, whose code is its only
    description known to this library; its form is that of GraSP, arXiv 2002.07376.
    Deviates: the author's code draws images by class, redraws linear layers in the scoring copy, and keeps all that
    ties at the cut. Its other ways of joining more than two groups (products, a Euclidean sum over pairs) are not here.
    """
    coupling = gradient_coupling(groups=groups, by_label=by_label, temperature=temperature, train=train)
    return method(
        "gcs",
        measured(score, {"coupling": coupling}),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
    )
