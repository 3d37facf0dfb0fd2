"""Diagonals of Fisher and Gauss-Newton matrices, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.curvature._likelihood import Likelihood, drawn_from, likelihood_of
from secateur.curvature._outer import outer_squares, summed_cross_entropy
from secateur.curvature._samples import per_sample, samples_in
from secateur.measures import Collector, Evidence, Measure, Needs, Params, Probe, Running, logits_of

__all__ = ["empirical_fisher", "ggn_diag", "true_fisher"]


class _Squares(Running):
    """Σ_n g_n², in float64."""

    def __init__(self, params: Params, factor: float = 1.0) -> None:
        super().__init__(params)
        self._factor = factor

    def add_squares(self, probe: Probe, *, summed: bool) -> None:
        """Take in one batch; `summed` says that its loss is the sum of its samples' own."""
        total: Evidence | None = outer_squares(probe) if summed else None
        if total is not None:
            self.fold({name: squares.mul_(self._factor) for name, squares in total.items()})
            return
        total = {}
        for grads in per_sample(probe):
            for name, grad in grads.items():
                term = grad.double().square().sum(0).mul_(self._factor)
                total[name] = total[name].add_(term) if name in total else term
        self.fold(total)


class _Empirical(_Squares):
    def update(self, probe: Probe) -> None:
        if probe.loss is None and isinstance(probe.batch, tuple | list) and _is_of_classes(probe):
            probe = replace(probe, loss=summed_cross_entropy, _grads=None, _grads_owned=False)
        self.add_squares(probe, summed=probe.loss is summed_cross_entropy)


def _is_of_classes(probe: Probe) -> bool:
    """Whether the default loss is a mean over samples of (samples, classes); what is wrong with it is said here."""
    samples_in(probe.batch)
    probe.grads  # noqa: B018
    targets = probe.batch[1] if isinstance(probe.batch, tuple | list) else None
    plain = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()
    return plain and bool((targets >= 0).all())  # pyright: ignore[reportOptionalOperand]


class _True(_Squares):
    def __init__(self, params: Params, draws: int, likelihood: Likelihood | None) -> None:
        super().__init__(params, 1 / draws)
        self._draws, self._likelihood = draws, likelihood

    def update(self, probe: Probe) -> None:
        likelihood = likelihood_of(probe, self._likelihood)
        for _ in range(self._draws):
            self.add_squares(drawn_from(likelihood, probe), summed=True)


class _Ggn(_Squares):
    def __init__(self, params: Params, likelihood: Likelihood | None) -> None:
        super().__init__(params)
        self._likelihood = likelihood

    def update(self, probe: Probe) -> None:
        likelihood = likelihood_of(probe, self._likelihood)
        with torch.no_grad():
            roots = list(likelihood.roots(probe.run()))
        for root in roots:
            along = replace(probe, batch=(probe.inputs, root), loss=_along, _grads=None, _grads_owned=False)
            self.add_squares(along, summed=True)


def _along(output: Any, root: Tensor) -> Tensor:
    """⟨s, f⟩: its gradient is Jᵀ s."""
    return (logits_of(output) * root).sum()


@dataclass(frozen=True)
class _Begin:
    """Starts a collector; a value, so that equal measures are equal."""

    kind: type[_Squares]
    options: tuple[Any, ...] = ()

    def __call__(self, params: Params) -> Collector:
        return self.kind(params, *self.options)


def empirical_fisher() -> Measure:
    """Diagonal of the empirical Fisher matrix, F_k = Σ_n (∂L_n/∂w_k)² over samples n: never the square of a mean.

    L_n is the loss of sample n with its own label. Eval mode; sums in float64. Memory: the sums, 8 bytes a weight, and
    `per_sample`'s gradients. It is the Hessian's diagonal near a minimum of a likelihood only; elsewhere, and after
    training to zero loss, it ranks differently (Kunstner, Balles & Hennig, arXiv 1905.12558).

    >>> from secateur import gather
    >>> model, two = torch.nn.Linear(1, 2, bias=False), (torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    >>> torch.nn.init.zeros_(model.weight).shape
    torch.Size([2, 1])
    >>> gather(model, [two], [empirical_fisher()], params={"weight": model.weight})["empirical_fisher"]["weight"]
    tensor([[1.2500],
            [1.2500]], dtype=torch.float64)
    """
    return Measure("empirical_fisher", _Begin(_Empirical), train=False)


def true_fisher(*, draws: int = 1, likelihood: Likelihood | None = None) -> Measure:
    """Diagonal of the Fisher matrix, F_k = Σ_n E_y (∂ log p(y|x_n)/∂w_k)², with labels y drawn from the model itself.

    Labels of the batches are not needed, and not looked at. Drawn from the generator that `prune` is given. Eval mode;
    sums in float64, 8 bytes a weight, besides `per_sample`'s gradients.

    Args:
        draws: labels drawn for each sample and position; their mean is taken.
        likelihood: p(y|x); None: that of cross-entropy, and a loss other than that is refused.

    Source: Martens & Grosse, arXiv 1503.05671, §2; Martens, arXiv 1412.1193, §5, for what sets it apart.
    """
    if draws < 1:
        raise SecateurError(f"`draws` must be at least 1, got {draws}.")
    begin = _Begin(_True, (draws, likelihood))
    return Measure("true_fisher", begin, needs=Needs.INPUTS, train=False, differentiates=True)


def ggn_diag(*, likelihood: Likelihood | None = None) -> Measure:
    """Diagonal of the Gauss-Newton matrix, diag Σ_n J_nᵀ H_n J_n, H_n the Hessian of the loss by the output; exact.

    Never negative. It is the Hessian's diagonal where the output is piecewise linear in each weight (ReLU), and the
    expectation of `true_fisher`. One pass of `per_sample` for each class (and position). Eval mode; sums in float64,
    8 bytes a weight.

    Args:
        likelihood: whose logarithm is the loss; None: that of cross-entropy, summed over samples.

    >>> from secateur import gather, curvature
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
    >>> squares = ggn_diag(likelihood=curvature.gaussian())
    >>> gather(model, [x], [squares], params={"weight": model.weight})["ggn_diag"]["weight"]
    tensor([[5.]], dtype=torch.float64)

    Source: Schraudolph, 2002; diagonals of it: Dangel, Kunstner & Hennig, arXiv 1912.10985, §2.2.
    """
    return Measure("ggn_diag", _Begin(_Ggn, (likelihood,)), needs=Needs.INPUTS, train=False, differentiates=True)
