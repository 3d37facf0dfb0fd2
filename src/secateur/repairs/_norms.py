"""Batch-norm re-estimation: running statistics of the network as it is after the cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Moment, Repair
from secateur.masks import Masks
from secateur.measures import Evidence, Level, Measure, Needs, Probe, Running, all_mean, gather

Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class ReestimateNorms:
    """Measure the running statistics of batch norms again (see `reestimate_norms`)."""

    measures: tuple[Measure, ...] = ()
    always: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Zero what goes, run the batches, and write the statistics."""
        norms = _norms(model)
        if not norms:
            return
        if moment.batches is None:
            raise SecateurError("`reestimate_norms` runs the pruned network and needs `batches`: a list of inputs.")
        masks.apply_(model)
        one = dict([next(iter(moment.params.items()))])
        found = gather(model, moment.batches, [_STATISTICS], params=one)["norm_statistics"]
        for name, norm in norms.items():
            _write(norm.running_mean, found[f"{name}.running_mean"])
            _write(norm.running_var, found[f"{name}.running_var"])


def _write(buffer: Tensor | None, value: Tensor) -> None:
    if buffer is not None:
        buffer.copy_(value)


def _norms(model: nn.Module) -> dict[str, Norm]:
    """The batch norms that keep running statistics."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Norm)}
    return {name: norm for name, norm in found.items() if norm.running_mean is not None}


class _Statistics(Running):
    """The mean over the batches of each norm's batch statistics; every norm normalises by those of its batch."""

    def update(self, probe: Probe) -> None:
        with torch.no_grad(), _by_batch(probe.model) as norms:
            probe.run()
            here: Evidence = {
                f"{name}.{statistic}": getattr(norm, statistic).double()
                for name, norm in norms.items()
                for statistic in ("running_mean", "running_var")
            }
        self.fold(here | {name: parameter.new_zeros(()) for name, parameter in self.params.items()})

    def compute(self) -> Evidence:
        return {name: total / self.updates for name, total in self.running.items()}


@contextmanager
def _by_batch(model: nn.Module) -> Iterator[dict[str, Norm]]:
    """Let norms alone train, and forget what they knew before each batch; `gather` puts all back afterwards."""
    norms = _norms(model)
    momenta = {norm: norm.momentum for norm in norms.values()}
    try:
        for norm in norms.values():
            norm.training, norm.momentum = True, 1.0
        yield norms
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


_STATISTICS = Measure(
    "norm_statistics", _Statistics, needs=Needs.INPUTS, level=Level.LAYER, train=False, reduction=all_mean
)


def reestimate_norms() -> ReestimateNorms:
    """Measure the running mean and variance of every batch norm again, on the network as it is after the cut.

    μ = 1/B Σ_b mean_b and σ² = 1/B Σ_b var_b over the B batches given to `prune`, each norm normalising by its own
    batch meanwhile, as in training; dropout stays off. The last of all: `then(least_squares_on(), reestimate_norms())`.
    A network without batch norms is left alone.

    Source: used after compression in Frantar, Singh & Alistarh, arXiv 2208.11580, §6; Hubara et al., arXiv 2006.10518,
    §3.3.
    """
    return ReestimateNorms()


@dataclass(frozen=True)
class Chain:
    """Several repairs one after the other (see `then`)."""

    repairs: tuple[Repair, ...]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What any of them asks for, each kind once."""
        return tuple(dict.fromkeys(measure for repair in self.repairs for measure in repair.measures))

    @property
    def always(self) -> bool:
        """Whether any of them runs at every milestone; then all do."""
        return any(repair.always for repair in self.repairs)

    @property
    def targets(self) -> bool:
        """Whether any of them reads the targets of the batches."""
        return any(getattr(repair, "targets", False) for repair in self.repairs)

    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Run them in order."""
        for repair in self.repairs:
            repair(model, masks, moment)


def then(*repairs: Repair) -> Chain:
    """Run several repairs one after the other, each on what the one before it left.

    >>> from secateur.repairs import least_squares_on
    >>> [type(part).__name__ for part in then(least_squares_on(), reestimate_norms()).repairs]
    ['Reconstruct', 'ReestimateNorms']
    """
    if not repairs:
        raise SecateurError("`then` needs a repair at least: then(least_squares_on(), reestimate_norms()).")
    return Chain(repairs)
