"""Gates for the tests: factors on weights, on outputs, in layers; and some that do not keep their word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Gate, schedule, scope, structure
from secateur.axes import Method, Stand, method

STRENGTH = 0.02


class Scale(Gate):
    """w · a, one a per row, at a price that depends on both."""

    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        rows = parameter.shape[0]
        self.a = nn.Parameter(torch.linspace(-0.5, 2.0, rows).reshape(rows, *[1] * (parameter.dim() - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.a.clamp(min=0)

    def penalty(self, weight: Tensor) -> Tensor:
        return STRENGTH * (weight * self.a).square().sum()

    def keep(self, weight: Tensor) -> Tensor:
        return self.a > 0


class OnOutput(Scale):
    """The same factors, on the outputs."""

    stands_on = Stand.OUTPUT

    def forward(self, output: Tensor) -> Tensor:
        factors = self.a.clamp(min=0).flatten()
        return output * factors.reshape(1, -1, *[1] * (output.dim() - 2))


class OnLayer(Scale):
    """The same factors, by a layer computed anew, with noise in training."""

    stands_on = Stand.LAYER

    def forward(self, layer: nn.Linear, inputs: Tensor) -> Tensor:
        output = F.linear(inputs, layer.weight * self.a.clamp(min=0), layer.bias)
        return output + torch.randn_like(output) if self.training else output

    def fold(self, weight: Tensor) -> Tensor:
        return weight * self.a.clamp(min=0)


class Liar(Scale):
    """Folds into something else than it computes."""

    def fold(self, weight: Tensor) -> Tensor:
        return 2 * super().fold(weight)


class LiarOnOutput(OnOutput):
    def fold(self, weight: Tensor) -> Tensor:
        return 2 * super().fold(weight)


class Untidy(Scale):
    """Leaves weights where it says that nothing stays."""

    def keep(self, weight: Tensor) -> Tensor:
        return self.a > 1

    def fold(self, weight: Tensor) -> Tensor:
        return self(weight)


class Free(Gate):
    """Has no parameters of its own, and a price on the weight."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def penalty(self, weight: Tensor) -> Tensor:
        return STRENGTH * weight.square().sum()

    def keep(self, weight: Tensor) -> Tensor:
        return weight.abs() > 0.1

    def fold(self, weight: Tensor) -> Tensor:
        return weight * self.keep(weight)


@dataclass(frozen=True)
class Put:
    """Puts one kind of gate on the parameters of a name, or on all."""

    gate: type[Gate]
    name: str = ""

    def __call__(self, name: str, parameter: nn.Parameter) -> Gate | None:
        make: Any = self.gate
        return make(parameter) if name.startswith(self.name) else None


def gated(gate: type[Gate], name: str = "") -> Method:
    """A method that consists of one kind of gate."""
    parts: Any = {"structure": structure.weights(), "scope": scope.everywhere(), "schedule": schedule.once(None)}
    return method("gated", None, relax=Put(gate, name), **parts)


def gates(model: nn.Module) -> dict[str, Any]:
    """The gates on a model, by the name of the parameter."""
    return {n.removesuffix("_gate"): g for n, g in model.named_modules() if isinstance(g, Gate)}


def hooks(model: nn.Module) -> list[int]:
    """How many hooks and stand-ins each module has."""
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in model.modules()]
