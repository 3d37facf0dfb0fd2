"""HashedNets: the weights of a layer are looked up, by a hash of their place, among far fewer numbers."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import hashing


def hashed(*, steps: int, ratio: float = 0.125, seed: int = 0, fitted: bool = False) -> Method:
    """Let chance decide which weights share a number, and train K = ⌈ratio · n⌉ numbers for a layer of n weights.

    V_i = ξ(i) · w_{h(i)}, with h and ξ hashes of the place i, and ∂L/∂w_k = Σ over h(i) = k of ξ(i) ∂L/∂V_i. Nothing
    but w and the seed needs to be stored. Zeros that are there stay: the mask acts after the look-up.

    Args:
        steps: the length of training, in optimizer steps.
        ratio: numbers for each weight; 1 is not the dense layer, since places collide.
        seed: of the hashes, beside the tensor's name.
        fitted: begin at the least-squares fit of the weights, for a trained network; else each number is one of the
            weights that share it, so that V has the spread of fresh weights.

    Family: during training.
    Source: Chen, Wilson, Tyree, Weinberger & Chen, arXiv 1504.04788, §4.
    Deviates: the hash is murmur3's finaliser (the authors take xxHash); no distillation; biases are direct.
    """
    return method(
        "hashed",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=hashing(ratio=ratio, seed=seed, fitted=fitted),
    )
