"""SparseGPT: one sweep over a layer's inputs that chooses, cuts and makes up for it."""

from __future__ import annotations

from secateur.axes import Method, Repair, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise, n_of_m
from secateur.axes.structure import weights
from secateur.measures import rows
from secateur.repairs import Swept, sweep


def sparsegpt(
    density: float,
    *,
    pattern: tuple[int, int] | None = None,
    block: int = 128,
    damping: float = 0.01,
    repair: Repair | None = None,
) -> Method:
    """Sweep each layer's inputs from left to right: choose block by block, cut, and spread the error to the right.

    With U upper triangular, UᵀU = (X Xᵀ + λI)⁻¹, each block of columns keeps its largest w²/U_jj² on the weights as
    they have become; cut weights leave e = w_j/U_jj, and W_:k ← W_:k − e·U_jk for all k > j. A weight whose input
    was always zero goes first. With `prune(..., blocks=…)` each block is solved behind those already pruned, as
    published.

    Args:
        density: ρ of each layer, exactly.
        pattern: (N, M) keeps N of every M consecutive inputs, of convolutions of every M channels; `density` is N/M.
        block: columns that choose together; a multiple of M.
        damping: λ as a share of the mean of the diagonal of X Xᵀ.
        repair: what the survivors do; the sweep's own compensation by default. `repairs.least_squares_on()` is nearer
            to the layer's outputs, and slower.

    Family: after training.
    Source: Frantar & Alistarh, "SparseGPT", arXiv 2301.00774, Algorithm 1.
    Deviates: counts are exact, where the authors' `<=` threshold cuts one more and all ties. Weights of inputs that are
    always zero keep their value where a block's count lets them stay (the authors zero them). Where the masks are
    not the sweep's own (masks that exist, another scope), survivors are swept again with those that are written.
    """
    swept = Swept(density, pattern, block, damping)
    score = measured(swept, {"rows": rows(masked=True)})
    return method(
        "sparsegpt",
        score,
        structure=weights(),
        scope=layerwise() if pattern is None else n_of_m(*pattern),
        schedule=once(density),
        repair=repair or sweep(damping=damping, channels_last=pattern is not None, known=swept.known),
    )
