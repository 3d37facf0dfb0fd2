"""How many parameters a network has, told apart as papers do: weights, biases, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Counts:
    """The learned parameters of a network by kind.

    Args:
        weights: of linear, convolutional and recurrent layers: what is pruned by default.
        biases: of the same layers: SNIP's own protocol counts and prunes them too.
        norms: γ and β of normalisation layers: never pruned, not counted in the paper's N.
    """

    weights: int
    biases: int
    norms: int

    @property
    def total(self) -> int:
        """N of the paper: weights and biases."""
        return self.weights + self.biases


def count(model: nn.Module) -> Counts:
    """Count the learned parameters of a model; buffers and frozen parameters are constants and do not count.

    >>> count(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10)))
    Counts(weights=536, biases=18, norms=16)
    """
    weights = biases = norms = 0
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            size = parameter.numel() if parameter.requires_grad else 0
            if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
                norms += size
            elif name.startswith("bias"):
                biases += size
            else:
                weights += size
    return Counts(weights, biases, norms)
