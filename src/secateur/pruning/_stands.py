"""How a gate stands on a layer: hooks that leave the names of tensors alone; and the proof that it may leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate, Stand


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


def no_shortcut(module: nn.Module, inputs: Any) -> None:
    """A forward pre-hook that does nothing: where one is, torch calls the layer instead of reading its weights."""


@contextmanager
def quiet(gate: Gate) -> Iterator[None]:
    """A gate in eval mode and without gradients, for the time of a block."""
    was = gate.training
    try:
        with torch.no_grad():
            gate.eval()
            yield
    finally:
        gate.train(was)


def prove(name: str, gate: Gate, weight: Tensor, folded: Tensor, mask: Tensor) -> None:
    """Raise unless the folded weight computes what the gated one does: the same tensor, or the same layer output."""
    if gate.stands_on is Stand.WEIGHT:
        same = torch.equal(torch.where(mask, gate(weight), 0 * weight), folded)
    elif gate.stands_on is Stand.OUTPUT:
        flat = torch.where(mask, weight, 0 * weight).flatten(1)  # cutting is the gate's last word
        probe = torch.linspace(-1, 1, 4 * flat.shape[1], device=weight.device, dtype=weight.dtype).reshape(4, -1)
        want, got = (probe @ flat.T) * gate.factors(weight).flatten(), probe @ folded.flatten(1).T
        same = torch.allclose(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    else:
        same = True  # it computed the layer itself: only its own eval mode says what it is
    if not same or bool((folded[~mask] != 0).any()):
        raise SecateurError(
            f"{type(gate).__name__} on {name!r} does not fold: with the folded weight the layer computes something "
            "else than with the gate in eval mode. `fold` must return what `forward` makes of the weight, zero where "
            "`keep` says so."
        )
