"""Gates on whole units: how the loss changes when all that reads a unit is scaled, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from secateur.coupling import Coupling, Entry, trace, worth_of
from secateur.curvature._samples import per_sample
from secateur.masks import layouts
from secateur.measures import Collector, Evidence, Level, Measure, Params, Probe, Running

__all__ = ["Cost", "gate_fisher", "gate_magnitude", "gate_relevance", "gate_taylor"]

#: Coupling → the price of one unit of each class.
Cost = Callable[[Coupling], np.ndarray]

Term = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal, as measures and methods are."""

    term: Term
    each: bool
    cost: Cost | None = None

    def __call__(self, params: Params) -> Collector:
        return _Gates(params, self.term, self.each, self.cost)


@dataclass
class _Units:
    """Who makes a class and who reads it, by the names of weights; and who has no class."""

    coupling: Coupling
    reads: list[tuple[str, Entry]] = field(default_factory=list)
    makes: list[tuple[str, Entry]] = field(default_factory=list)

    @staticmethod
    def of(probe: Probe) -> _Units:
        inputs, model = probe.inputs, probe.model
        if isinstance(inputs, Mapping):
            found = trace(model, kwargs=dict(_without_labels(model, inputs)))
        else:
            several = isinstance(inputs, tuple | list)
            found = trace(model, *(inputs if several else (inputs,)))
        units = _Units(found)
        weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
        for entry in found.entries:
            name = next((each for each in entry.names if each in weights), None)
            if name is not None and len(entry.ids) == weights[name].shape[entry.dim]:
                (units.reads if entry.reads else units.makes).append((name, entry))
        return units

    def gates(self, products: Mapping[str, Tensor]) -> np.ndarray:
        """Σ w ∂L/∂w over all that reads each class, of one sample; over what makes it, where nobody does."""
        sums = []
        for side in (self.reads, self.makes):
            here = [(name, entry) for name, entry in side if name in products]
            sums.append(worth_of(self.coupling, [(e.ids, _along(products[n], e.dim)) for n, e in here]))
        return np.where(self.read(products), *sums)

    def read(self, products: Mapping[str, Tensor]) -> np.ndarray:
        """Whether anything reads each class."""
        rows = [(e.ids, np.ones(len(e.ids))) for n, e in self.reads if n in products]
        return worth_of(self.coupling, rows) > 0

    def shares(self, values: np.ndarray, params: Params) -> dict[str, Tensor]:
        """What each row of a weight is worth: the value of its class, shared among all rows that make it."""
        makers = {name: entry for name, entry in reversed(self.makes) if name in params}
        count = np.zeros(self.coupling.count)
        for entry in makers.values():
            np.add.at(count, entry.ids, 1)
        return {name: torch.from_numpy(values[entry.ids] / count[entry.ids]) for name, entry in makers.items()}


class _Gates(Running):
    """Σ of a term of the gradient by each unit's gate, over samples or batches; one float64 per output unit."""

    def __init__(self, params: Params, term: Term, each: bool, cost: Cost | None) -> None:
        super().__init__(params)
        self._term, self._each, self._cost = term, each, cost
        self._units: _Units | None = None

    def update(self, probe: Probe) -> None:
        if self._units is None:
            self._units = _Units.of(probe)
        weights = {name: p for name, p in probe.model.named_parameters() if p.dim() > 1 and p.requires_grad}
        every = replace(probe, params=weights, _grads=None, _grads_owned=False)
        values, rest = np.zeros(self._units.coupling.count), {}
        reached: set[str] = set()
        for grads in self._each_of(every):
            products = {name: grad.double() * weights[name].detach() for name, grad in grads.items()}
            reached |= products.keys()
            for n in range(len(next(iter(products.values()), ()))):
                values += self._term(self._units.gates({name: product[n] for name, product in products.items()}))
            self._add_rows(rest, products, probe.model)
        if self._cost is not None:
            values = values / self._cost(self._units.coupling)
        known = self._units.shares(values, self.params)
        found = {name: known.get(name, rest.get(name)) for name in self.params if name in reached}
        self.fold({name: tensor.to(self.params[name].device) for name, tensor in found.items() if tensor is not None})

    def _each_of(self, probe: Probe) -> Iterator[Evidence]:
        if self._each:
            yield from per_sample(probe)
        else:
            yield {name: grad[None] for name, grad in probe.grads.items()}

    def _add_rows(self, rest: dict[str, Tensor], products: Mapping[str, Tensor], model: nn.Module) -> None:
        """Of weights whose rows have no class (the trace knows nothing of them): the gate on the row alone."""
        turned = layouts(model, self.params)
        for name in [each for each in self.params if each in products]:
            parts = (
                products[name]
                if name not in turned
                else torch.stack([turned[name].to_canonical(one) for one in products[name]])
            )
            rows = torch.from_numpy(self._term(parts.flatten(2).sum(2).cpu().numpy())).sum(0)
            rest[name] = rest[name] + rows if name in rest else rows


def _along(product: Tensor, dim: int) -> np.ndarray:
    return product.movedim(dim, 0).flatten(1).sum(1).cpu().numpy()


def _without_labels(model: nn.Module, inputs: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in inputs.items() if name != "labels"}


def _magnitude(gates: np.ndarray) -> np.ndarray:
    return np.abs(gates)


def _half_square(gates: np.ndarray) -> np.ndarray:
    return 0.5 * np.square(gates)


def _square(gates: np.ndarray) -> np.ndarray:
    return np.square(gates)


def _negative(gates: np.ndarray) -> np.ndarray:
    return -gates


def gate_magnitude() -> Measure:
    """Σ_n |∂L_n/∂m_k|, the gate m_k on all that reads unit k: |Σ over positions of z_k ∂L_n/∂z_k| of its map z_k.

    The gradient by a gate is taken where the unit is read, as Σ w ∂L_n/∂w over the columns of all weights that read it:
    behind normalisation, activation and pooling. Of a unit that nobody reads (an output), over the rows that make it.
    One number per output unit, float64; where several layers make a unit (a residual stream), each has an equal share,
    so that their sum is the unit's. Memory: `per_sample`'s gradients. Eval mode; the model is traced once (`coupling`).
    Source: Molchanov, Tyree, Karras, Aila & Kautz, arXiv 1611.06440, eq. 8.
    """
    return Measure("gate_magnitude", _Begin(_magnitude, True), level=Level.UNIT, train=False)


def gate_fisher(*, cost: Cost | None = None) -> Measure:
    """½ Σ_n (∂L_n/∂m_k)², summed over all layers that read unit k before it is squared; gates as in `gate_magnitude`.

    The gradient of coupled units may cancel between their readers, which a sum of each layer's own Fisher would miss.

    Args:
        cost: price of one unit of each class, by which it is divided: `memory_saved`, `macs_saved` or your own.

    Source: Liu et al., "Group Fisher pruning", arXiv 2108.00708, eqs. 5 to 8.
    """
    return Measure("gate_fisher", _Begin(_half_square, True, cost), level=Level.UNIT, train=False)


def gate_taylor(*, per_sample: bool = False) -> Measure:
    """Σ_b (∂L_b/∂m_k)² over batches, of each batch's own loss; or over samples. Gates as in `gate_magnitude`.

    Args:
        per_sample: square the gradient of each sample instead of the batch's.

    Source: Molchanov, Mallya, Tyree, Frosio & Kautz, arXiv 1906.10771, eq. 8 with gates.
    """
    return Measure("gate_taylor", _Begin(_square, per_sample), level=Level.UNIT, train=False)


def gate_relevance() -> Measure:
    """−Σ_b ∂L_b/∂m_k: how much the loss would rise, to first order, without unit k. Gates as in `gate_magnitude`.

    Negative where the loss would fall.
    Source: Mozer & Smolensky, "Skeletonization", NIPS 1988, eq. 3.
    """
    return Measure("gate_relevance", _Begin(_negative, False), level=Level.UNIT, train=False)
