"""Gates: learned modules that stand on a weight, on a layer or on its output while a network trains.

A gate says in its own terms what training makes of a weight (a stochastic mask, a threshold, a code, noise), what that
costs, and in the end which weights stay. A method's `relax` says which gate goes where; a `Pruner` puts them up, adds
their penalty to the gradients before each optimizer step, and folds them away at the end. The training loop does not
change, and the gated tensors keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError


class Stand(Enum):
    """What a gate stands on, which is what its `forward` gets.

    `WEIGHT`: the parameter; it returns what the layer computes with. `OUTPUT`: the layer's output; it returns what is
    passed on. `LAYER`: the layer itself and its inputs; it computes the output (local reparametrisation, feature
    suppression), with the weight as it stands.
    """

    WEIGHT = "weight"
    OUTPUT = "output"
    LAYER = "layer"


class Gate(nn.Module):
    """Base of all gates. A subclass writes `forward`, `keep`, and whichever of the others it needs.

    `forward` gets what the gate stands on (see `Stand`) and returns what is used instead: in training mode maybe drawn,
    in eval mode fixed.

    Parameters of a gate are trained by the optimizer that trains the gated weight, with the options named in
    `options` (`{"weight_decay": 0.0}`, say) instead of that weight's own; several gates may share a module that has
    some (one prior for all layers). Where the gate is `own_trainer`, its `trainer` trains them instead, by the same
    gradients, right after the weights' step: learning rates that suit weights need not suit it. Where `held_out` says
    so, the `trainer` takes that step by batches that the Pruner was given.

    A gate that `freezes` stands on a weight that is not trained at all: its gradient is dropped before the step.

    Noise in `forward` comes from torch's global generator, as dropout's does, so that activation checkpointing draws it
    again alike; a gate that draws elsewhere uses `generator`, which the Pruner sets.

    A gate that `retires` is folded away at the schedule's last milestone, and the survivors train on without it; the
    others stay until `finish`.
    """

    stands_on: Stand = Stand.WEIGHT
    options: ClassVar[Mapping[str, Any]] = {}
    own_trainer: ClassVar[bool] = False
    held_out: ClassVar[bool] = False
    freezes: ClassVar[bool] = False
    retires: ClassVar[bool] = False
    generator: torch.Generator | None = None

    def meet(self, layers: Sequence[nn.Module]) -> None:
        """Called once, before the gate is put up, with the layers that own the weight: to choose what to stand on."""

    def penalty(self, weight: Tensor) -> Tensor | None:
        """What this gate adds to the loss, as a scalar with its graph, strength included; None adds nothing."""
        return None

    def keep(self, weight: Tensor) -> Tensor:
        """True for what stays: a boolean tensor that broadcasts to the weight's shape."""
        raise SecateurError(f"{type(self).__name__} must say what stays: write its `keep`.")

    def worth(self, weight: Tensor) -> Tensor:
        """What each weight, or each unit of the structure, is worth: needed where the schedule names densities.

        The method's scope then chooses among all gates at each milestone, and each is told by `admit`.
        """
        raise SecateurError(
            f"{type(self).__name__} must say what each weight is worth, since the schedule names a density: write its "
            "`worth` and its `admit`."
        )

    def admit(self, mask: Tensor) -> None:
        """Take what the scope has chosen: from now on, and until it chooses again, the gate keeps `mask`."""
        raise SecateurError(f"{type(self).__name__} must take what has been chosen: write its `admit`.")

    def trainer(self) -> torch.optim.Optimizer | None:
        """The optimizer of this gate's parameters where they have one of their own: Adam by default.

        None where another gate's trainer sees to them (a prior that they share).
        """
        return torch.optim.Adam(self.parameters())

    def after_step(self, weight: Tensor, lr: float) -> None:
        """Called after each optimizer step, without gradients: proximal steps, clamps, mask updates.

        `lr` is the learning rate with which the optimizer has just trained the weight, 0 where none has.
        """

    def fold(self, weight: Tensor) -> Tensor:
        """The weight that stays when the gate goes: what the gate makes of it in eval mode where it `keep`s, else zero.

        What `keep` cuts need not be zero in eval mode: cutting it is the gate's last word. Gates on outputs fold into
        the rows of the weight: their `forward` must be a factor per output. A gate that computes a layer writes its
        own.
        """
        gated = self.factors(weight) * weight if self.stands_on is Stand.OUTPUT else self(weight)
        return torch.where(self.keep(weight), gated, torch.zeros((), dtype=weight.dtype, device=weight.device))

    def factors(self, weight: Tensor) -> Tensor:
        """For gates on outputs: the factor of each output in eval mode, shaped to multiply `weight`."""
        ones = torch.ones(1, weight.shape[0], *[1] * max(weight.dim() - 2, 0), dtype=weight.dtype, device=weight.device)
        return self(ones).reshape(-1, *[1] * (weight.dim() - 1))


#: (name, parameter) → the gate that stands there, or None for a parameter without one. One that has to see all
#: parameters first, or whose gates share something, has a method `of_all`: (parameters by name) → such a function.
Relax = Callable[[str, nn.Parameter], Gate | None]
