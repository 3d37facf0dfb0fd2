"""Evidence that needs no data: the weights themselves, and noise."""

from __future__ import annotations

import torch

from secateur.measures._measure import Evidence, Measure, Params, Probe, from_first_rank


class _Weights:
    passes = 1

    def __init__(self, params: Params) -> None:
        self._params = params

    def update(self, probe: Probe) -> None:
        pass

    def compute(self) -> Evidence:
        return {name: parameter.detach() for name, parameter in self._params.items()}


class _Noise:
    passes = 1

    def __init__(self, params: Params) -> None:
        self._params = params
        self._generator: torch.Generator | None = None

    def update(self, probe: Probe) -> None:
        self._generator = probe.generator

    def compute(self) -> Evidence:
        # Drawn on the generator's device, so that a CPU generator gives the same mask to a model on any device.
        where = self._generator.device if self._generator is not None else torch.device("cpu")
        return {
            name: torch.rand(p.shape, generator=self._generator, device=where).to(p.device)
            for name, p in self._params.items()
        }


def weight() -> Measure:
    """The weight w of each parameter. Read-only: it is the parameter's own storage, not a copy."""
    return Measure("weight", _Weights, needs="nothing", reduction=None)


def noise() -> Measure:
    """Uniform numbers in [0, 1), one per weight, from the generator passed to `prune`; equal on all ranks."""
    return Measure("noise", _Noise, needs="nothing", reduction=from_first_rank)
