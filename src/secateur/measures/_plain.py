"""Evidence that needs no data: the weights themselves, and noise."""

from __future__ import annotations

import torch

from secateur.measures._measure import Measure, Needs
from secateur.measures._probe import Evidence, Probe
from secateur.measures._reduction import from_first_rank
from secateur.measures._running import Running


class _Weights(Running):
    def update(self, probe: Probe) -> None:
        self.running = probe.weights

    def compute(self) -> Evidence:
        return dict(self.running) or {name: parameter.detach() for name, parameter in self.params.items()}


class _Noise(Running):
    def update(self, probe: Probe) -> None:
        # Drawn on the generator's device, so that a CPU generator gives the same mask to a model on any device.
        where = probe.generator.device if probe.generator is not None else torch.device("cpu")
        self.running = {
            name: torch.rand(p.shape, generator=probe.generator, device=where).to(p.device)
            for name, p in self.params.items()
        }


def weight() -> Measure:
    """The weight w of each parameter; where masks hide dense weights, the dense ones.

    Read-only: it is the weight's own storage, not a copy.
    """
    return Measure("weight", _Weights, needs=Needs.NOTHING, reduction=None)


def noise() -> Measure:
    """Uniform numbers in [0, 1), one per weight, from the generator passed to `prune`; equal on all ranks."""
    return Measure("noise", _Noise, needs=Needs.NOTHING, reduction=from_first_rank)
