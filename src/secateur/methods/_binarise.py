"""BNN: binarized neural networks; weights of one bit, trained by the gradients of their signs."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import binaries


def binarise(*, steps: int) -> Method:
    """Compute with the signs of the weights, and train the weights behind them.

    Forward with sign(w), sign(0) = +1; ∂L/∂w = ∂L/∂sign(w); after each step w ← clip(w, −1, 1). In the end each weight
    is +1 or −1. What is exactly zero to begin with is pruned, and stays zero: the rest is ternary. Activations of one
    bit are modules of the network: `gates.BinaryActivation` in the place of a ReLU, behind a batch norm. Without norms
    a network hardly trains: all its weights are of size 1.

    Args:
        steps: the length of training, in optimizer steps.

    Alias: bnn.
    Family: during training.
    Source: Courbariaux, Hubara, Soudry, El-Yaniv & Bengio, arXiv 1602.02830, Algorithm 1.
    Deviates: the optimizer and its rates are yours (the authors scale the rate layer by layer, by Glorot's bound);
    biases and norms are real numbers; first and last layers are binary too, unless `only` leaves them out.
    """
    return method(
        "binarise",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=binaries(),
    )
