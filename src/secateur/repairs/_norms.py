"""Means made right after a cut: running statistics of batch norms, and biases of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Moment, Repair
from secateur.masks import Masks
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


class _OutputMeans(LayerCollector):
    """Σ of each unit's outputs over samples and positions, and how many there were, the last number."""

    def see(self, call: Call) -> None:
        values = call.units(call.outputs).double()
        self.accumulate(call.name, torch.cat([values.sum(0), values.new_tensor([len(values)])]))

    def compute(self) -> Evidence:
        return {name: sums[:-1] / sums[-1] for name, sums in reduced(dict(self.running), all_sum).items()}


_MEANS = Measure("output_means", _OutputMeans, needs=Needs.INPUTS, level=Level.UNIT, train=False, reduction=None)


@dataclass(frozen=True)
class CorrectedBiases:
    """Give each layer's outputs the means that they had (see `corrected_biases`)."""

    measures: tuple[Measure, ...] = (_MEANS,)
    always: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Zero what goes, run the batches, and write the biases of what stays."""
        wanted = moment.evidence[_MEANS.name]
        if moment.batches is None:
            raise SecateurError("`corrected_biases` runs the pruned network and needs `batches`: a list of inputs.")
        masks.apply_(model)
        layers = {f"{path}.weight".lstrip("."): module for path, module in model.named_modules()}
        biased = {name: layers[name] for name in wanted if getattr(layers.get(name), "bias", None) is not None}
        if not biased:
            return
        alive = {name: moment.canonical(name, masks[name]).flatten(1).any(1) for name in biased}
        params = {name: moment.params[name] for name in biased}
        shift = Measure(
            "bias_shift", lambda own: _Shifts(own, biased, wanted), Needs.INPUTS, Level.UNIT, False, all_mean
        )
        found = gather(model, moment.batches, [shift], params=params)[shift.name]
        for name, layer in biased.items():
            bias: Tensor = layer.get_parameter("bias")
            bias.add_((found[name] * alive[name]).to(bias))


class _Shifts(Running):
    """What each layer's outputs lack on average, the layers before it being corrected by their own batch."""

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
        def correct(layer: nn.Module, _: object, out: Tensor) -> Tensor:
            convolves = isinstance(layer, nn.modules.conv._ConvNd)
            rows = out.movedim(-len(layer.kernel_size) - 1, -1) if convolves else out
            lacks = self._wanted[name].to(out.device) - rows.double().flatten(0, -2).mean(0)
            found[name] = lacks  # of a layer that is called twice, the last
            place = [1] * len(layer.kernel_size) if convolves else []
            return out + lacks.to(out).reshape(-1, *place)

        return correct

    def compute(self) -> Evidence:
        return {name: total / self.updates for name, total in self.running.items()}


def corrected_biases() -> CorrectedBiases:
    """Add to each bias what the outputs of its unit lack on average after the cut: b += E[y dense] − E[y pruned].

    The means are over samples and positions of the batches, layer by layer in the order of the forward: the inputs of a
    layer are those that the corrected layers before it give. Units that are gone and layers without a bias stay as they
    are. In front of an activation this is more than `reestimate_norms` can do behind it; both together:
    `then(corrected_biases(), reestimate_norms())`.

    Source: bias correction of Nagel, van Baalen, Blankevoort & Welling, "Data-free quantization through weight
    equalization and bias correction", arXiv 1906.04721, §4.2, with measured means, for a cut instead of a rounding.
    """
    return CorrectedBiases()


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
