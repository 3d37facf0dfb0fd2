"""Trained quantisation: the weights of a layer share a few values, which are trained; zeros stay zero."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.coding import Init, linear
from secateur.gates import sharing


def trained_quantisation(
    *,
    steps: int,
    bits: int | Mapping[str, int] = 5,
    rate: float = 1e-4,
    momentum: float = 0.9,
    init: Init = linear,
) -> Method:
    """Give each layer at most 2^b values by k-means, and train the values: stage two of Deep Compression.

    W_ij = C[I_ij], with I fixed by k-means over the weights that are not zero, and ∂L/∂C_k = Σ over I_ij = k of
    ∂L/∂W_ij. What is exactly zero stays so, and is no part of the clustering: prune first. Afterwards a tensor holds at
    most 2^b values besides 0, and `coding.shared_values(weight, weight != 0, b)` returns them and their indices,
    without loss.

    Args:
        steps: the length of training, in optimizer steps.
        bits: b, one for all layers, or by name or glob (`{"conv*": 8, "fc*": 5}`): layers not named are left alone.
            The paper takes 8 for convolutions and 5 for fully connected layers of LeNet-5, 6 for LeNet-300-100.
        rate: learning rate of the values, which have an SGD of their own: a gradient that is summed over thousands of
            weights wants a smaller rate than theirs. Biases and all else are trained by your optimizer.
        momentum: of that SGD.
        init: where k-means begins, `coding.linear` (the paper's best), `density` or `random(generator)`.

    Family: after training.
    Source: Han, Mao & Dally, "Deep Compression", arXiv 1510.00149, §3, eqs. 2 and 3.
    Deviates: neither rate nor momentum of the values is printed; ours are for means of losses over a batch.
    """
    return method(
        "trained_quantisation",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=sharing(bits=bits, rate=rate, momentum=momentum, init=init),
    )
