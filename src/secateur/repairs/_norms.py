"""Means and variances made right after a cut: running statistics of batch norms, and outputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Moment, Repair
from secateur.masks import Layout, Masks
from secateur.measures import (
    Call,
    Evidence,
    LayerCollector,
    Level,
    Measure,
    Needs,
    Params,
    Probe,
    Running,
    all_mean,
    all_sum,
    gather,
    reduced,
)

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


class _Moments(LayerCollector):
    """Sums of each unit's outputs and of their squares over samples and positions, and in the last row their number."""

    def see(self, call: Call) -> None:
        values = call.units(call.outputs).double()
        count = torch.full_like(values[0], len(values))
        self.accumulate(call.name, torch.stack([values.sum(0), values.square().sum(0), count]))

    def compute(self) -> Evidence:
        return {name: _moments(sums) for name, sums in reduced(dict(self.running), all_sum).items()}


_MOMENTS = Measure("output_moments", _Moments, needs=Needs.INPUTS, level=Level.UNIT, train=False, reduction=None)


def _moments(sums: Tensor) -> Tensor:
    """Mean and variance of sums, sums of squares, and numbers."""
    mean = sums[0] / sums[2]
    return torch.stack([mean, (sums[1] / sums[2] - mean.square()).clamp_min(0)])


@dataclass(frozen=True)
class MatchedMoments:
    """Give each layer's outputs the means and variances that they had (see `matched_moments`)."""

    measures: tuple[Measure, ...] = (_MOMENTS,)
    always: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Zero what goes, run the batches, and write weights and biases of what stays."""
        wanted = moment.evidence[_MOMENTS.name]
        if moment.batches is None:
            raise SecateurError("`matched_moments` runs the pruned network and needs `batches`: a list of inputs.")
        masks.apply_(model)
        layers = {f"{path}.weight".lstrip("."): module for path, module in model.named_modules()}
        biased = {name: layers[name] for name in wanted if getattr(layers.get(name), "bias", None) is not None}
        if not biased:
            return
        params = {name: moment.params[name] for name in biased}
        here = Measure("moments_now", lambda own: _Now(own, biased, wanted), Needs.INPUTS, Level.UNIT, False, all_mean)
        found = gather(model, moment.batches, [here], params=params)[here.name]
        for name, layer in biased.items():
            alive = moment.canonical(name, masks[name]).flatten(1).any(1)
            _match(layer, found[name], wanted[name].to(found[name].device), alive, moment.layouts.get(name))


def _scale(now: Tensor, wanted: Tensor) -> Tensor:
    """The ratio of the standard deviations; 1 where there is none any more."""
    ratio = (wanted[1] / now[1]).sqrt()
    return torch.where(ratio.isfinite() & (wanted[1] > 0), ratio, 1.0)


def _match(layer: nn.Module, now: Tensor, wanted: Tensor, alive: Tensor, layout: Layout | None) -> None:
    """s (w x + b − μ now) + μ: rows times s, and the bias with them; what is gone stays as it is."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    scale = torch.where(alive, _scale(now, wanted), 1.0)
    rows = weight if layout is None else layout.to_canonical(weight)
    rows = rows * scale.to(weight).reshape(-1, *[1] * (rows.ndim - 1))
    weight.copy_(rows if layout is None else layout.from_canonical(rows))
    bias.copy_(torch.where(alive, scale * (bias - now[0]) + wanted[0], bias.double()))


class _Now(Running):
    """Mean and variance of each layer's outputs, the layers before it being matched by their own batch."""

    def __init__(self, params: Params, layers: Mapping[str, nn.Module], wanted: Evidence) -> None:
        super().__init__(params)
        self._layers, self._wanted = layers, wanted

    def update(self, probe: Probe) -> None:
        found: Evidence = {}
        handles = [layer.register_forward_hook(self._hook(name, found)) for name, layer in self._layers.items()]
        try:
            with torch.no_grad():
                probe.run()
        finally:
            for handle in handles:
                handle.remove()
        self.fold(found)

    def _hook(self, name: str, found: Evidence) -> Callable[..., Tensor]:
        def match(layer: nn.Module, _: object, out: Tensor) -> Tensor:
            convolves = isinstance(layer, nn.modules.conv._ConvNd)
            rows = (out.movedim(-len(layer.kernel_size) - 1, -1) if convolves else out).double()
            rows = rows.reshape(-1, rows.shape[-1])
            now = torch.stack([rows.mean(0), rows.var(0, correction=0)])
            found[name] = now  # of a layer that is called twice, the last
            wanted = self._wanted[name].to(out.device)
            place = (-1, *[1] * len(layer.kernel_size)) if convolves else (-1,)
            scale, shift = _scale(now, wanted), wanted[0]
            return ((out - now[0].reshape(place)) * scale.reshape(place) + shift.reshape(place)).to(out)

        return match

    def compute(self) -> Evidence:
        return {name: total / self.updates for name, total in self.running.items()}


def matched_moments() -> MatchedMoments:
    """Scale the rows and set the bias of each layer so that its outputs have the means and variances that they had.

    For each unit that stays, w ← s w and b ← s (b − μ′) + μ with s = σ/σ′: μ and σ² are mean and variance of its output
    over samples and positions of the batches in the dense network, μ′ and σ′² in the pruned one, layer by layer in the
    order of the forward: the inputs of a layer are those that the matched layers before it give. Layers without a bias
    are left to `reestimate_norms`, which is its like behind an activation: `then(matched_moments(),
    reestimate_norms())`. A unit whose output has become a constant keeps its scale.

    Source: Jordan, Sedghi, Saukh, Entezari & Neyshabur, "REPAIR: renormalizing permuted activations for interpolation
    repair", arXiv 2211.08403, §3, there for averages of networks, here for what a cut leaves.
    """
    return MatchedMoments()


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
