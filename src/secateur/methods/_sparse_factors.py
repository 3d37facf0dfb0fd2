"""Sparse CNN: a basis of channels, a few shapes for each, and sparse coefficients, all trained."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import factoring


def sparse_factors(
    *, steps: int, strength: float = 1e-4, row_strength: float = 1e-4, shapes: int | None = None, rate: float = 0.01
) -> Method:
    """Write each kernel as few products: W[j, c, u] = Σ_i P[i, c] Σ_k S[i, k, j] Q[i, k, u], with S sparse.

    P, Q and S begin at principal components, where W is what it was, and are trained under
    λ₁Σ|S| + λ₂Σ_{ik}‖S[i, k]‖₂ (a proximal step), with atoms of length 1; coefficients below 1e-4 are zero. In the end
    the weight is the product, and dense: S (`gates.SparseFactors.coefficients`) is what is sparse, and a form to
    compute with.

    SSL (arXiv 1608.03665) takes its threshold from it.

    Args:
        steps: the length of training, in optimizer steps.
        strength: λ₁.
        row_strength: λ₂.
        shapes: q, how many of a channel's shapes stay; None keeps them all.
        rate: learning rate of P, Q and S, by an SGD of their own with momentum 0.9: a product of three bears less than
            a weight does.

    Family: during training.
    Source: Liu, Wang, Foroosh, Tappen & Pensky, "Sparse convolutional neural networks", CVPR 2015, from
    memory.
    Deviates: λ is ours; linear layers are factored too, as kernels of one place.
    """
    return method(
        "sparse_factors",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=factoring(strength=strength, row_strength=row_strength, shapes=shapes, rate=rate),
    )
