"""Layers whose outputs a gate can compute itself: those that are one product of weights and inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_ONE_PRODUCT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def local(layer: nn.Module) -> bool:
    """Whether a gate may stand on the layer; attention reads its output projection's weights and never calls it."""
    return isinstance(layer, _ONE_PRODUCT) and not isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)


def output(layer: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes with another weight and bias."""
    return F.linear(inputs, weight, bias) if isinstance(layer, nn.Linear) else layer._conv_forward(inputs, weight, bias)
