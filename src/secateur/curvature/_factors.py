"""The two factors of a layer's Fisher matrix (K-FAC): what goes into it, and what the loss wants of its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur._base.errors import SecateurError
from secateur.curvature._likelihood import Likelihood, drawn_from, likelihood_of
from secateur.curvature._samples import samples_in
from secateur.measures import (
    Call,
    Collector,
    Evidence,
    LayerCollector,
    Level,
    Measure,
    Needs,
    Params,
    Probe,
    all_sum,
    reduced,
    watched,
)

__all__ = ["input_factor", "output_factor"]

_CHUNK = 1 << 22  # patch entries that are copied at once


class _Mean(LayerCollector):
    """Σ over all batches and ranks, divided by a count of each layer."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self._counts: dict[str, float] = {}

    def count(self, name: str, number: int) -> None:
        """So many more that the sum is of."""
        self._counts[name] = self._counts.get(name, 0.0) + number

    def compute(self) -> Evidence:
        # Sums and counts of all ranks first, then their ratio: a mean of means would weigh the ranks wrongly.
        counts = {
            n: torch.tensor(c, dtype=torch.float64, device=self.params[n].device) for n, c in self._counts.items()
        }
        sums, counts = reduced(dict(self.running), all_sum), reduced(counts, all_sum)
        return {name: total / counts[name] for name, total in sums.items()}


class _InputFactor(_Mean):
    def see(self, call: Call) -> None:
        x, entries = call.patches(), call.weight.dim() - 1
        for part in x.split(max(1, _CHUNK * len(x) // max(1, x.numel()))):
            rows = part.movedim(1, 0).flatten(-entries).flatten(1, -2).double()
            product = rows.mT @ rows
            self.accumulate(call.name, product if call.groups > 1 else product[0])

    def update(self, probe: Probe) -> None:
        super().update(probe)
        for name in self.running:
            self.count(name, samples_in(probe.inputs))


class _OutputFactor(_Mean):
    def __init__(self, params: Params, draws: int, likelihood: Likelihood | None) -> None:
        super().__init__(params)
        self._draws, self._likelihood = draws, likelihood

    def see(self, call: Call) -> None:
        assert call.grad is not None
        rows = call.units(call.grad).double()
        self.accumulate(call.name, rows.mT @ rows)
        self.count(call.name, len(rows))

    def update(self, probe: Probe) -> None:
        likelihood = likelihood_of(probe, self._likelihood)
        for _ in range(self._draws):
            drawn = drawn_from(likelihood, probe)
            with watched(drawn.model, self.params, self.see):
                drawn.differentiate(drawn.evaluate())


@dataclass(frozen=True)
class _BeginOutput:
    """Begins a collector; two alike are equal."""

    draws: int
    likelihood: Likelihood | None

    def __call__(self, params: Params) -> Collector:
        return _OutputFactor(params, self.draws, self.likelihood)


def input_factor() -> Measure:
    """A = E_n Σ_t x_nt x_ntᵀ of each layer: second moments of its inputs, mean over samples, summed over positions.

    Shape (d, d) with the d entries of one unit's weight as in `weight.flatten(1)`; (groups, d, d) for a grouped
    convolution; float64. As `measures.gram`, for each sample. No 1 is appended for the bias: biases stay as they are.
    Memory: d² numbers of 8 bytes a layer. Source: Grosse & Martens, arXiv 1602.01407, eq. 31 (KFC).
    """
    return Measure("input_factor", _InputFactor, needs=Needs.INPUTS, level=Level.LAYER, train=False, reduction=None)


def output_factor(*, draws: int = 1, likelihood: Likelihood | None = None) -> Measure:
    """G = E g gᵀ of each layer, g = −∂ log p(y|x)/∂a at its outputs a, with labels drawn from the model itself.

    Mean over samples and positions, so that A ⊗ G is the layer's block of the Fisher matrix of one sample, if inputs
    and gradients are independent of each other and from place to place. Shape (outputs, outputs), float64: 8 bytes a
    number.

    Args:
        draws: labels drawn for each sample and position.
        likelihood: p(y|x); None: that of cross-entropy, and a loss other than that is refused.

    Source: Martens & Grosse, arXiv 1503.05671, §3; of convolutions: Grosse & Martens, arXiv 1602.01407, eq. 32.
    """
    if draws < 1:
        raise SecateurError(f"`draws` must be at least 1, got {draws}.")
    return Measure(
        "output_factor",
        _BeginOutput(draws, likelihood),
        needs=Needs.INPUTS,
        level=Level.LAYER,
        train=False,
        reduction=None,
        differentiates=True,
    )
