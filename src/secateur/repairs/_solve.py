"""Repairs that solve one layer after the other for what makes up for the cut, from the second moments of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from secateur._base.errors import ScoreError, SecateurError
from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure, gram
from secateur.repairs._exact import released_removal
from secateur.repairs._second_moments import damped, least_squares
from secateur.repairs._sweep import column_sweep, inverse_factor
from secateur.repairs._written import Known

Result = TypeVar("Result")


#: (rows, keep, damped moments) → the rows on the kept places; a value, so that methods that use it are.
Solver = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LayerByLayer:
    """Base of repairs that solve each layer by itself, from the second moments of its inputs, group by group.

    Attributes:
        solve: how; its arguments are the subclass's affair.
        damping: λ as a share of the mean of the diagonal of what is inverted.
        always: whether at every milestone, which is when the weights that go are still there to make up for.
    """

    solve: Callable[..., Tensor]
    damping: float = 0.01
    always: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The second moments of the layers' inputs."""
        return (gram(),)

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name, keep in masks.items():
            if keep.dim() < 2:
                continue  # a bias: nothing of the layer's inputs multiplies it
            parameter, moments = moment.params[name], moment.evidence["gram"][name]
            whole = moment.canonical(name, parameter * moment.alive[name].to(parameter.device))
            bits = moment.canonical(name, keep).to(whole.device).flatten(1)
            parts = [self.part(name, whole.shape[1:], *part) for part in groups(whole.flatten(1), moments, bits)]
            parameter.copy_(moment.stored(name, torch.cat(parts).reshape(whole.shape).to(whole.dtype)))

    def part(self, name: str, inside: torch.Size, rows: Tensor, moments: Tensor, keep: Tensor) -> Tensor:
        """The rows of one group of a layer whose outputs read `inside`: (channels, kernel…)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reconstruct(LayerByLayer):
    """Give the survivors of each layer the values that keep its outputs on the batches: see `least_squares_on`.

    Attributes:
        channels_last: whether a convolution's inputs come position by position, not channel by channel: the order
            matters to what goes through them one after the other.
        known: solutions that the score has made already; of what is not among them, `solve` makes it.
    """

    channels_last: bool = False
    known: Known | None = field(default=None, compare=False, repr=False)

    def part(self, name: str, inside: torch.Size, rows: Tensor, moments: Tensor, keep: Tensor) -> Tensor:
        """The rows on what each of them keeps."""
        found = None if self.known is None else self.known.find(rows, moments, keep)
        if found is not None:
            return torch.where(moments.diagonal() == 0, rows, found)
        solved, dead = told(name, damped, moments, self.damping)
        if self.channels_last:
            order = channels_last(rows.shape[1], inside[1:], rows.device)
            found = torch.empty_like(rows)
            found[:, order] = told(name, self.solve, rows[:, order], keep[:, order], solved[order][:, order])
        else:
            found = told(name, self.solve, rows, keep, solved)
        return torch.where(dead, rows, found)  # of weights whose input was always zero nothing is known: left as is


def told(name: str, function: Callable[..., Result], *args: object) -> Result:
    """Call a function of one layer's matrices, and name the layer in what it refuses."""
    try:
        return function(*args)
    except SecateurError as error:
        raise ScoreError(f"{name!r}: {error}") from error


def groups(rows: Tensor, moments: Tensor, *more: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut a layer's matrix into those of its groups, each with the moments of its own inputs."""
    count = len(moments) if moments.dim() == 3 else 1
    size = len(rows) // count
    for number in range(count):
        part = slice(number * size, (number + 1) * size)
        yield (rows[part], moments[number] if moments.dim() == 3 else moments, *(other[part] for other in more))


def channels_last(inputs: int, kernel: Sequence[int], device: torch.device) -> Tensor:
    """The order of a row's entries in which consecutive ones are channels: (c, u) → (u, c)."""
    positions = math.prod(kernel)
    return torch.arange(inputs, device=device).reshape(-1, positions).T.flatten()


# --- values of the axis -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sweep:
    def __call__(self, rows: Tensor, keep: Tensor, moments: Tensor) -> Tensor:
        return column_sweep(rows, inverse_factor(moments), keep=keep)[0]


def sweep(*, damping: float = 0.01, channels_last: bool = False, known: Known | None = None) -> Reconstruct:
    """Let inputs to the right make up for each cut, in one pass over the columns (SparseGPT's compensation).

    With U upper triangular, UᵀU = (G + λI)⁻¹: for j = 1, 2, …, cut weights leave e = w_j/U_jj and W_:k ← W_:k − e·U_jk
    for k > j. Costs one factorisation and one pass, whatever the mask; `least_squares_on` is never worse on the
    batches, and slower. See `column_sweep`.

    Args:
        damping: λ as a share of the mean of the diagonal of G.
        channels_last: whether a convolution's inputs come position by position, as where N:M is chosen among channels.
        known: what the score has swept already (`Swept.known`), with the same damping.

    Source: Frantar & Alistarh, "SparseGPT", arXiv 2301.00774, §3.2.

    >>> from secateur import methods, prune, Masks
    >>> sweep(damping=0.1).damping
    0.1
    """
    return Reconstruct(_Sweep(), _checked(damping), channels_last=channels_last, known=known)


@dataclass(frozen=True)
class _LeastSquares:
    def __call__(self, rows: Tensor, keep: Tensor, moments: Tensor) -> Tensor:
        return least_squares(rows, keep, moments)


def least_squares_on(*, damping: float = 0.01) -> Reconstruct:
    """Give each row the weights on its kept places that come nearest to the layer's outputs on the batches.

    w′_S = argmin ‖(w − w′) X‖² + λ‖w − w′‖² row by row. It is where removing the cut weights one by one ends, with all
    others made up for after each (OBS, OBC), in whatever order. See `least_squares`.

    Args:
        damping: λ as a share of the mean of the diagonal of G = X Xᵀ.

    Source: Frantar, Singh & Alistarh, "Optimal Brain Compression", arXiv 2208.11580, §4.
    """
    return Reconstruct(_LeastSquares(), _checked(damping))


@dataclass(frozen=True)
class _Released:
    def __call__(self, rows: Tensor, keep: Tensor, moments: Tensor) -> Tensor:
        return released_removal(rows, keep, moments)


def released(*, damping: float = 1e-6) -> Reconstruct:
    """Make up for each cut weight by the moments of all inputs, those of removed weights too (L-OBS as released).

    w ← w − (w_q/[G⁻¹]_qq)·G⁻¹_:q for each cut q in ascending order of ½w_q²/[G⁻¹]_qq, with one G⁻¹ throughout. Right
    for the first removal only: later ones move removed weights, which are zeroed again at the end.

    Args:
        damping: λ as a share of the mean of the diagonal of G.

    Source: Dong, Chen & Pan, arXiv 1705.07565, Algorithm 1, as in the authors' code.
    """
    return Reconstruct(_Released(), _checked(damping))


def _checked(damping: float) -> float:
    if not 0 <= damping < math.inf:
        raise SecateurError(
            f"`damping` must be at least 0, got {damping}: the share of the mean of the diagonal added."
        )
    return damping
