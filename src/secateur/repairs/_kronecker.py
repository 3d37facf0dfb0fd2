"""Weights and rows removed under a Fisher matrix A ⊗ G of each layer, and what makes up for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.axes import Moment
from secateur.curvature import input_factor, output_factor
from secateur.masks import Masks
from secateur.measures import Measure
from secateur.repairs._second_moments import damped, inverse_of
from secateur.repairs._solve import told

__all__ = ["Factored", "RowCost", "WeightCost", "row_removal", "weight_removal"]

#: (rows, which stay, A⁻¹, G⁻¹) → rows of the same shape.
Solver = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _parts(rows: Tensor, inputs: Tensor, outputs: Tensor) -> list[tuple[slice, Tensor, Tensor]]:
    """A layer's rows by groups, each with the factors of its own inputs and outputs."""
    count = len(inputs) if inputs.dim() == 3 else 1
    size = len(rows) // count
    found = []
    for number in range(count):
        here = slice(number * size, (number + 1) * size)
        found.append((here, inputs[number] if inputs.dim() == 3 else inputs, outputs[here, here]))
    return found


@dataclass(frozen=True)
class WeightCost:
    """½ w_ij² / ([G⁻¹]_ii [A⁻¹]_jj): what the loss rises by without one weight, all others making up for it (OBS).

    Called with a layer's `rows` and the factors of its Fisher matrix; weights of inputs that are always zero cost
    nothing.

    Attributes:
        damping: added to the diagonal of A and of G, as a share of its mean.
    """

    damping: float = 0.1

    def __call__(self, rows: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Score one layer."""
        found = []
        for here, a, g in _parts(rows, inputs, outputs):
            (a, dead), (g, still) = damped(a, self.damping), damped(g, self.damping)
            costs = rows[here].double().square() / (2 * torch.outer(_diagonal(g), _diagonal(a)))
            found.append(costs.masked_fill(dead, 0).masked_fill(still[:, None], 0))
        return torch.cat(found)


@dataclass(frozen=True)
class RowCost:
    """½ θ_iᵀ A θ_i / [G⁻¹]_ii of each row θ_i: without a unit, the others making up for it; or ½ G_ii θ_iᵀ A θ_i.

    Attributes:
        made_up: whether the other rows make up for it (OBS), or not (OBD).
        damping: added to the diagonal of A and of G, as a share of its mean.
    """

    made_up: bool = True
    damping: float = 0.1

    def __call__(self, rows: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Score one layer."""
        found = []
        for here, a, g in _parts(rows, inputs, outputs):
            (a, _), (g, still) = damped(a, self.damping), damped(g, self.damping)
            size = (rows[here].double() @ a * rows[here].double()).sum(1) / 2
            share = 1 / _diagonal(g) if self.made_up else g.diagonal()
            found.append((size * share).masked_fill(still, 0))
        return torch.cat(found)


def _diagonal(matrix: Tensor) -> Tensor:
    return inverse_of(matrix).diagonal()


@dataclass(frozen=True)
class Factored:
    """Let the survivors of each layer make up for the cut, by the factors of its Fisher matrix: see `weight_removal`.

    Attributes:
        solve: how.
        draws: labels drawn for each sample, for G.
        damping: added to the diagonal of A and of G, as a share of its mean.
        always: whether at every milestone.
    """

    solve: Solver
    inputs: Measure
    outputs: Measure
    damping: float = 0.1
    always: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Both factors."""
        return (self.inputs, self.outputs)

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name, keep in masks.items():
            parameter = moment.params[name]
            whole = moment.canonical(name, parameter * moment.alive[name].to(parameter.device))
            rows, bits = whole.flatten(1).double(), moment.canonical(name, keep).to(whole.device).flatten(1)
            factors = (moment.evidence[measure.name][name].double() for measure in self.measures)
            solved = torch.cat([told(name, self._part, rows[h], bits[h], a, g) for h, a, g in _parts(rows, *factors)])
            parameter.copy_(moment.stored(name, solved.reshape(whole.shape).to(whole.dtype)))

    def _part(self, rows: Tensor, keep: Tensor, a: Tensor, g: Tensor) -> Tensor:
        return self.solve(rows, keep, inverse_of(damped(a, self.damping)[0]), inverse_of(damped(g, self.damping)[0]))


def _summed(rows: Tensor, keep: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """Every cut weight's own update, added up: W − G⁻¹ C A⁻¹, C_ij = w_ij/([G⁻¹]_ii [A⁻¹]_jj) where cut."""
    share = torch.where(keep, 0.0, rows / torch.outer(g.diagonal(), a.diagonal()))
    return (rows - g @ share @ a) * keep


def _jointly(rows: Tensor, keep: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """Whole rows S removed together: W − G⁻¹_:S ([G⁻¹]_SS)⁻¹ W_S."""
    gone = (~keep.any(1)).nonzero().flatten()
    if not len(gone):
        return rows * keep
    return (rows - g[:, gone] @ torch.linalg.solve(g[gone[:, None], gone], rows[gone])) * keep


def weight_removal(*, draws: int = 1, damping: float = 0.1) -> Factored:
    """Add up what makes up for each cut weight under F = A ⊗ G: δW = −Σ (w_ij/([G⁻¹]_ii [A⁻¹]_jj)) (G⁻¹e_i)(A⁻¹e_j)ᵀ.

    Right for one weight of a layer; of several, each update knows nothing of the others, and what it writes where
    weights are cut is zero again.

    Args:
        draws: labels drawn for each sample, for G.
        damping: added to the diagonal of A and of G, as a share of its mean.

    Source: Zeng & Urtasun, "MLPrune", 2018 (OpenReview r1g5b2RcKm), §3, from memory.
    """
    return Factored(_summed, input_factor(), output_factor(draws=draws), damping)


def row_removal(*, draws: int = 1, damping: float = 0.1) -> Factored:
    """Let the rows that stay make up for those that are cut, all together: δW = −G⁻¹_:S ([G⁻¹]_SS)⁻¹ W_S.

    Args:
        draws: labels drawn for each sample, for G.
        damping: added to the diagonal of A and of G, as a share of its mean.

    Source: Wang, Grosse, Fidler & Zhang, "EigenDamage", arXiv 1905.05934, eq. 9 (Kron-OBS), for several rows at once.
    """
    return Factored(_jointly, input_factor(), output_factor(draws=draws), damping)
