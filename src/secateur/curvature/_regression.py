"""Sparse regression on gradients: which weights stay and what they become, in one problem over the whole network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.curvature._snapshots import snapshots
from secateur.measures import Collector, Evidence, Measure, Params, Probe, Running
from secateur.selection import check_density, kept_count, topk_mask

__all__ = ["sparse_regression"]

_ROUNDS, _STEPS = 8, 20


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal."""

    keep: float
    ridge: float
    group: int
    most: int | None

    def __call__(self, params: Params) -> Collector:
        return _Regression(params, self)


class _Regression(Running):
    """Gathers X, and solves when asked."""

    def __init__(self, params: Params, options: _Begin) -> None:
        super().__init__(params)
        self._options = options
        self._rows = snapshots(group=options.group, most=options.most).begin(params)

    def update(self, probe: Probe) -> None:
        self._rows.update(probe)

    def compute(self) -> Evidence:
        rows = self._rows.compute()
        for name, grads in rows.items():
            if not bool(torch.isfinite(grads).all()):
                raise SecateurError(f"The gradients of {name!r} are not finite: look for NaN among the batches.")
        names = [name for name in self.params if name in rows]
        x = torch.cat([rows[name].flatten(1).double() for name in names], 1)
        dense = {name: self.params[name].detach().double() for name in names}
        whole = torch.cat([dense[name].flatten() for name in names])
        keep = kept_count(self._options.keep, len(whole))
        solved = _solve(x, whole, keep, len(x) * self._options.ridge)
        sizes = [dense[name].numel() for name in names]
        return {n: part.reshape(dense[n].shape) for n, part in zip(names, solved.split(sizes), strict=True)}


def _solve(x: Tensor, dense: Tensor, keep: int, ridge: float) -> Tensor:
    """min ½‖X(w − w̄)‖² + ½ nλ‖w − w̄‖², at most `keep` of w not 0: hard thresholds, a line search, and refits."""
    least = 1 / (float(torch.linalg.matrix_norm(x @ x.T, 2)) + ridge)

    def slope(w: Tensor) -> Tensor:
        return x.T @ (x @ (w - dense)) + ridge * (w - dense)

    def loss(w: Tensor) -> float:
        return 0.5 * float((x @ (w - dense)).square().sum() + ridge * (w - dense).square().sum())

    best = _refitted(x, dense, _largest(dense, keep), ridge)
    lowest = loss(best)
    for _ in range(_ROUNDS):
        w, now = best, lowest
        for _ in range(_STEPS):
            direction = slope(w)
            step, found = least, _cut(w - least * direction, keep)
            reached = loss(found)
            while True:  # a longer step as long as it goes down further; the shortest always does
                tried = _cut(w - 2 * step * direction, keep)
                if not (further := loss(tried)) < reached:
                    break
                step, found, reached = 2 * step, tried, further
            if not reached < now * (1 - 1e-6):
                break
            w, now = found, reached
        fitted = _refitted(x, dense, w != 0, ridge)
        if not loss(fitted) < lowest * (1 - 1e-6):
            break
        best, lowest = fitted, loss(fitted)
    return best


def _largest(w: Tensor, keep: int) -> Tensor:
    return topk_mask({"": w.abs()}, keep)[""]


def _cut(w: Tensor, keep: int) -> Tensor:
    return w * _largest(w, keep)


def _refitted(x: Tensor, dense: Tensor, stays: Tensor, ridge: float) -> Tensor:
    """The best w on a support: w̄_S + X_Sᵀ (X_S X_Sᵀ + nλI)⁻¹ X_P w̄_P, a system of as many unknowns as gradients."""
    missing = x[:, ~stays] @ dense[~stays]
    inside = x[:, stays]
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    found = torch.zeros_like(dense)
    found[stays] = dense[stays] + inside.T @ torch.linalg.solve(inside @ inside.T + ridge * eye, missing)
    return found


def sparse_regression(*, keep: float, ridge: float = 1e-4, group: int = 1, most: int | None = None) -> Measure:
    """The κ weights that stay, and their values: argmin ½‖X(w − w̄)‖² + (nλ/2)‖w − w̄‖² with ‖w‖₀ ≤ κ.

    X are n gradients at w̄, one a row: ‖X(w − w̄)‖² is n times the loss's rise by the empirical Fisher matrix, which is
    never formed. Solved by hard thresholds with a line search, from the largest |w̄| refitted; what they end in is
    refitted, and they go on from there as long as it helps. Zeros elsewhere. Float64. Memory: n × all weights, 8 bytes
    each, and half as much again while they are gathered.

    Args:
        keep: κ as a fraction of all weights.
        ridge: λ.
        group: samples that a gradient is the mean of.
        most: gradients at most, on each rank.

    Source: Benbaki et al., "Fast as CHITA", arXiv 2302.14623, eq. 5 and Algorithm 1 (CHITA-BSO and -CD are not here).
    """
    check_density(keep, name="keep")
    if not ridge > 0:
        raise SecateurError(f"`ridge` must be positive, got {ridge}: there are fewer gradients than weights.")
    snapshots(group=group, most=most)  # says what is wrong with these
    return Measure("sparse_regression", _Begin(keep, ridge, group, most), train=False, reduction=None)
