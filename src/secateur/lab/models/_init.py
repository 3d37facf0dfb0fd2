"""Weight initialisers of the SNIP paper's Table 3: RN and TN of fixed deviation, VS-X and VS-H that scale it.

Each is a function `(model, *, generator)` that draws every weight anew, in the order of
`model.named_modules()`, sets biases to zero, and sets normalisation layers to the identity (γ = 1, β = 0,
running mean 0 and variance 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

Draw = Callable[[Tensor, int, int, torch.Generator], None]
Fan = Callable[[int, int], float]

# A normal distribution cut at two standard deviations has this deviation, not 1.
_DEVIATION_OF_CUT_NORMAL = 0.87962566103423978
_RECURRENT_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@runtime_checkable
class Initialiser(Protocol):
    """What the functions of this module have in common: they overwrite a model's weights from a generator."""

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> None: ...


def fan_in(inputs: int, outputs: int) -> float:
    """Return how many inputs feed a unit: keeps the variance of activations through linear layers."""
    return inputs


def fan_average(inputs: int, outputs: int) -> float:
    """Return the mean of a unit's inputs and the units an input feeds: Glorot and Bengio's compromise."""
    return (inputs + outputs) / 2


def variance_scaling(model: nn.Module, *, generator: torch.Generator, scale: float = 1.0, fan: Fan = fan_in) -> None:
    """Draw each weight from a normal distribution of variance scale / fan, cut at two deviations.

    For a unit of a linear or convolutional layer, the inputs are those of its receptive field. For a gate of
    a recurrent layer they are the layer's input and its state together, and an input feeds all gates: what
    one kernel over [input, state] has in TensorFlow's cells, and what keeps the variance of a gate, which
    sums both.

    Args:
        model: overwritten in place; parameters that do not require a gradient are constants and stay.
        generator: draws on its own device; a CPU generator gives the same weights wherever the model is.
        scale: the variance of a unit with unit inputs, where fan is `fan_in`.
        fan: (inputs, outputs) → the number that the variance is divided by.

    Raises:
        SecateurError: `scale` is not positive, or a layer is of a kind this function does not know.

    >>> layer = nn.Linear(1000, 200)
    >>> variance_scaling(layer, generator=torch.Generator().manual_seed(0), scale=2.0)
    >>> round(layer.weight.std().item(), 3), (2 / 1000) ** 0.5
    (0.045, 0.044721359549995794)
    """
    if scale <= 0:
        raise SecateurError(f"`scale` must be positive, got {scale:g}.")

    def draw(weight: Tensor, inputs: int, outputs: int, generator: torch.Generator) -> None:
        _cut_normal(weight, math.sqrt(scale / fan(inputs, outputs)) / _DEVIATION_OF_CUT_NORMAL, generator)

    _overwrite(model, draw, generator)


def vs(model: nn.Module, *, generator: torch.Generator) -> None:
    """Initialise as the authors' code does: variance 1 / fan-in, TensorFlow's default of variance scaling.

    Source: `namhoonlee/snip-public`, `tf.variance_scaling_initializer()`.
    """
    variance_scaling(model, generator=generator, scale=1.0, fan=fan_in)


def vs_x(model: nn.Module, *, generator: torch.Generator) -> None:
    """Initialise as Glorot and Bengio: variance 2 / (fan-in + fan-out), "VS-X" in SNIP's Table 3.

    Deviates: normal, cut at two deviations, where Glorot and Bengio draw uniformly; SNIP does not say which.
    """
    variance_scaling(model, generator=generator, scale=1.0, fan=fan_average)


def vs_h(model: nn.Module, *, generator: torch.Generator) -> None:
    """Initialise as He et al. (arXiv 1502.01852, eq. 10): variance 2 / fan-in, "VS-H" in SNIP's Table 3.

    Deviates: cut at two deviations like TensorFlow's, where He et al. cut nothing.
    """
    variance_scaling(model, generator=generator, scale=2.0, fan=fan_in)


def rn(model: nn.Module, *, generator: torch.Generator, std: float = 1.0) -> None:
    """Initialise with a normal distribution of fixed deviation, "RN" in SNIP's Table 3.

    Args:
        model: overwritten in place.
        generator: draws on its own device.
        std: the deviation. The paper prints none; 1 is the default of TensorFlow's initialiser.

    Raises:
        SecateurError: `std` is not positive, or a layer is of a kind this function does not know.
    """
    _refuse_deviation(std)
    _overwrite(model, lambda weight, _in, _out, generator: _normal(weight, std, generator), generator)


def tn(model: nn.Module, *, generator: torch.Generator, std: float = 1.0) -> None:
    """Initialise with a normal distribution of fixed deviation, cut at two, "TN" in SNIP's Table 3.

    Args:
        model: overwritten in place.
        generator: draws on its own device.
        std: the deviation before the cut, which leaves 0.88 of it. The paper prints none; 1 is TensorFlow's
            default.

    Raises:
        SecateurError: `std` is not positive, or a layer is of a kind this function does not know.
    """
    _refuse_deviation(std)
    _overwrite(model, lambda weight, _in, _out, generator: _cut_normal(weight, std, generator), generator)


class Initial(StrEnum):
    """How an experiment's weights are drawn, by the names of SNIP's Table 3; `VS` is what its authors' code does.

    A member is an `Initialiser` itself.

    >>> Initial("vs-h") is Initial.VS_H
    True
    """

    VS = "vs"
    VS_X = "vs-x"
    VS_H = "vs-h"
    RN = "rn"
    TN = "tn"

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> None:
        """Overwrite the weights of `model`."""
        _DRAWS[self](model, generator=generator)


_DRAWS: Mapping[Initial, Initialiser] = MappingProxyType(
    {Initial.VS: vs, Initial.VS_X: vs_x, Initial.VS_H: vs_h, Initial.RN: rn, Initial.TN: tn}
)


def _refuse_deviation(std: float) -> None:
    if std <= 0:
        raise SecateurError(f"`std` must be positive, got {std:g}.")


def _normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    drawn = torch.empty(weight.shape, device=generator.device).normal_(0.0, std, generator=generator)
    weight.copy_(drawn)


def _cut_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill by inverting the distribution function: one uniform draw a weight, nothing rejected."""
    tail = math.erf(2 / math.sqrt(2))
    drawn = torch.empty(weight.shape, device=generator.device).uniform_(-tail, tail, generator=generator)
    drawn.erfinv_().mul_(std * math.sqrt(2)).clamp_(-2 * std, 2 * std)
    weight.copy_(drawn)


@torch.no_grad()
def _overwrite(model: nn.Module, draw: Draw, generator: torch.Generator) -> None:
    layers = [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    for name, module in layers:
        if not isinstance(module, _KNOWN):
            raise SecateurError(
                f"`model`: {name or 'the model'} is a {type(module).__name__} with weights of its own; only "
                f"Linear, Conv*, RNN, LSTM, GRU and normalisation layers can be initialised here. "
                f"Initialise it yourself."
            )
    for _, module in layers:
        if isinstance(module, _NORMS):
            module.reset_parameters()
            continue
        for parameter, inputs, outputs in _weights(module):
            if parameter.requires_grad:
                draw(parameter, inputs, outputs, generator)
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("bias") and parameter.requires_grad:
                parameter.zero_()


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_KNOWN = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, *_NORMS)


def _weights(module: nn.Module) -> Iterator[tuple[Tensor, int, int]]:
    """Yield each weight of a layer with the number of inputs of a unit and of units that an input feeds."""
    if isinstance(module, nn.RNNBase):
        outputs = _RECURRENT_GATES[module.mode] * module.hidden_size
        own = dict(module.named_parameters(recurse=False))
        for name, parameter in own.items():
            if name.startswith("weight_ih"):
                state = own[name.replace("weight_ih", "weight_hh")]
                inputs = parameter.shape[1] + state.shape[1]
                yield parameter, inputs, outputs
                yield state, inputs, outputs
    elif isinstance(module, nn.Linear):
        yield module.weight, module.in_features, module.out_features
    elif isinstance(module, nn.modules.conv._ConvNd):
        field = math.prod(module.kernel_size)
        inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
        yield module.weight, inputs * field, outputs * field
