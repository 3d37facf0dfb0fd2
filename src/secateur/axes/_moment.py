"""A moment: everything that is known where a method acts, as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.masks import Layout
from secateur.measures import Batch, Loss

Bits = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """One milestone of one method on one model: what scopes, regrowth and repairs are handed.

    Attributes:
        step: how many optimizer steps have been taken; in `prune`, which round of the schedule this is.
        density: the density to reach, or None where it emerges.
        params: the prunable parameters by name, with their dense values where those are still there.
        alive: one boolean tensor per parameter, True where a weight has not been pruned yet.
        evidence: measure → parameter → tensor; read-only, so that a second score on it sees what the first saw.
        generator: source of randomness, if the caller brought one.
        layouts: the layout of each parameter that is not stored `[out, in, ...]`.
        memory: what a regrowth keeps from one milestone to the next, numbers and tensors by name: the one thing here
            that is for writing. It is in the `Pruner`'s state.
        batches: what `prune` was given to look at, for repairs that run the pruned model; None: nothing.
        loss: as given with them.
    """

    step: int
    density: float | None
    params: Mapping[str, nn.Parameter]
    alive: Bits
    evidence: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    generator: torch.Generator | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    memory: dict[str, float | Tensor] = field(default_factory=dict)
    batches: Iterable[Batch] | None = None
    loss: Loss | None = None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each prunable parameter as structures and scopes see it: `[out, in, ...]`."""
        return {name: self.canonical(name, parameter).shape for name, parameter in self.params.items()}

    def canonical(self, name: str, tensor: Tensor) -> Tensor:
        """Turn a tensor of a parameter's shape to `[out, in, ...]`."""
        return self.layouts[name].to_canonical(tensor) if name in self.layouts else tensor

    def stored(self, name: str, tensor: Tensor) -> Tensor:
        """Turn a tensor that lies as `[out, in, ...]` back to the parameter's own shape."""
        return self.layouts[name].from_canonical(tensor) if name in self.layouts else tensor


def all_alive(params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """One boolean tensor of ones per parameter: nothing is pruned yet. They take no memory, and are not for writing."""
    return {name: torch.ones((), dtype=torch.bool, device=p.device).expand(p.shape) for name, p in params.items()}
