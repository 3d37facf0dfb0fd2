"""How a gate stands on a layer: hooks that leave the names of tensors alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


@dataclass
class Swap:
    """Forward hooks that let a layer find the gated tensor where its parameter is, for the time of a forward.

    An instance attribute stands before `nn.Module`'s look-up of parameters: the parameter keeps its name and place.
    """

    gate: Gate
    attribute: str
    child: str = ""

    def enter(self, module: nn.Module, inputs: Any) -> None:
        owner = module.get_submodule(self.child)
        parameter = owner._parameters[self.attribute]
        gated = self.gate(parameter)
        owner.__dict__[self.attribute] = gated
        flat: Any = owner.__dict__.get("_flat_weights")
        if flat is not None:  # recurrent layers hold their weights in a list of their own
            owner.__dict__["_flat_weights"] = [gated if each is parameter else each for each in flat]

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        owner = module.get_submodule(self.child)
        owner.__dict__.pop(self.attribute, None)
        if "_flat_weights" in owner.__dict__:
            names: list[str] = owner.__dict__["_flat_weights_names"]
            owner.__dict__["_flat_weights"] = [getattr(owner, name, None) for name in names]


@dataclass
class OnOutput:
    """A forward hook that passes a layer's output through a gate."""

    gate: Gate

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise SecateurError(
                f"A gate on outputs needs a layer that returns a tensor, got {type(output).__name__} from "
                f"{type(module).__name__}. Gate its weight instead (Stand.WEIGHT)."
            )
        return self.gate(output)


@dataclass
class Instead:
    """Stands in for a layer's `forward` and lets the gate compute it."""

    gate: Gate
    layer: nn.Module

    def __call__(self, *inputs: Any) -> Tensor:
        return self.gate(self.layer, *inputs)
