"""One mixture of normal distributions as the prior of all weights: they gather at its means (soft weight-sharing)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from secateur._base.errors import SecateurError
from secateur.axes import Gate

#: (α, β) of the Gamma distributions of the precisions: of the spike at zero, and of the others.
SPIKE, OTHERS = (5000.0, 2.0), (250.0, 0.1)
_FIRST_DEVIATION = 0.25


class Mixture(nn.Module):
    """p(w) = Σ_j π_j N(w | μ_j, 1/λ_j) with μ₀ = 0 and π₀ fixed; the other means, all λ and the other π are learned."""

    def __init__(self, *, components: int, zero_share: float, span: float) -> None:
        super().__init__()
        self._zero_share = zero_share
        self.means = nn.Parameter(torch.linspace(-span, span, components - 1))
        self.log_precisions = nn.Parameter(torch.full((components,), -2 * math.log(_FIRST_DEVIATION)))
        self.logits = nn.Parameter(torch.zeros(components - 1))

    def centres(self) -> Tensor:
        """μ of each component, 0 first."""
        return torch.cat([self.means.new_zeros(1), self.means])

    def joint(self, weight: Tensor) -> Tensor:
        """log π_j + log N(w | μ_j, 1/λ_j), `[component, weight]`."""
        return self._polynomials() @ _powers(weight.flatten())

    def _polynomials(self) -> Tensor:
        """The exponents as polynomials in w: a table of distances would take several passes, this is one product."""
        share = torch.full_like(self.log_precisions[:1], self._zero_share)
        mixing = torch.cat([share.log(), (1 - share).log() + torch.log_softmax(self.logits, 0)])
        precisions, centres = self.log_precisions.exp(), self.centres()
        constant = mixing + 0.5 * (self.log_precisions - math.log(2 * math.pi) - precisions * centres.square())
        return torch.stack([constant, precisions * centres, -0.5 * precisions], 1)

    def surprise(self, weight: Tensor) -> Tensor:
        """−Σ log p(w) over all weights of a tensor."""
        return _Surprise.apply(self._polynomials(), weight.flatten())  # type: ignore[return-value]

    def hyperprior(self) -> Tensor:
        """−log of the Gamma distributions of the precisions, up to a constant: Σ_j (1 − α_j) log λ_j + β_j λ_j."""
        like = self.log_precisions
        alpha = torch.cat([like.new_tensor([SPIKE[0]]), like.new_full((len(like) - 1,), OTHERS[0])])
        beta = torch.cat([like.new_tensor([SPIKE[1]]), like.new_full((len(like) - 1,), OTHERS[1])])
        return ((1 - alpha) * like + beta * like.exp()).sum()


def _powers(flat: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(flat), flat, flat.square()])


class _Surprise(torch.autograd.Function):
    """−Σ logsumexp_j of polynomials in w, and its gradient, in one walk over parts that stay in the cache.

    With 16 components the table of responsibilities is 16 times as large as the weights, and autograd would go over it
    a dozen times.
    """

    @staticmethod
    def forward(ctx: Any, polynomials: Tensor, flat: Tensor) -> Tensor:
        total = flat.new_zeros(())
        of_polynomials, of_flat = torch.zeros_like(polynomials), torch.empty_like(flat)
        size = 1 << (13 if flat.device.type == "cpu" else 20)
        for part, slope in zip(flat.split(size), of_flat.split(size), strict=True):
            powers = _powers(part)
            table = polynomials @ powers
            highest = table.amax(0)
            sums = table.sub_(highest).exp_().sum(0)
            total -= (sums.log() + highest).sum()
            table.div_(sums)
            of_polynomials.addmm_(table, powers.t(), alpha=-1)
            first, second = (polynomials[:, 1:].t() @ table).unbind()
            torch.add(first, second * part, alpha=2, out=slope)
        ctx.save_for_backward(of_polynomials, of_flat.neg_())
        return total.to(flat.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        of_polynomials, of_flat = ctx.saved_tensors
        return grads[0] * of_polynomials, grads[0] * of_flat


class Sharing(Gate):
    """In training the weight itself, at the price of its surprise; in eval mode the mean that answers for it most."""

    own_trainer: ClassVar[bool] = True

    def __init__(self, prior: Mixture, settings: Mixtures, *, first: bool) -> None:
        super().__init__()
        self.prior, self.settings, self._first = prior, settings, first

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.training else self.prior.centres()[self._component(weight)]

    def penalty(self, weight: Tensor) -> Tensor:
        price, settings = self.prior.surprise(weight), self.settings
        if self._first:
            price = price + self.prior.hyperprior()
        return settings.strength / settings.examples * price

    def keep(self, weight: Tensor) -> Tensor:
        return self._component(weight) != 0

    def trainer(self) -> torch.optim.Optimizer | None:
        if not self._first:
            return None
        settings, prior = self.settings, self.prior
        rates = {prior.means: settings.mean_rate, prior.log_precisions: settings.precision_rate}
        rates[prior.logits] = settings.mixing_rate
        return torch.optim.Adam([{"params": [parameter], "lr": rate} for parameter, rate in rates.items()])

    def _component(self, weight: Tensor) -> Tensor:
        return self.prior.joint(weight).argmax(0).reshape(weight.shape)


@dataclass(frozen=True)
class Mixtures:
    """Puts a `Sharing` on every weight, all of one network under one `Mixture`."""

    components: int
    zero_share: float
    span: float
    strength: float
    examples: int
    mean_rate: float
    precision_rate: float
    mixing_rate: float

    def of_all(self, params: Mapping[str, nn.Parameter]) -> _Shared:
        """A prior for one network."""
        prior = Mixture(components=self.components, zero_share=self.zero_share, span=self.span)
        return _Shared(prior, self, next(iter(params), ""))

    def __call__(self, name: str, parameter: nn.Parameter) -> Sharing:
        return self.of_all({name: parameter})(name, parameter)


@dataclass(frozen=True)
class _Shared:
    prior: Mixture
    settings: Mixtures
    first: str

    def __call__(self, name: str, parameter: nn.Parameter) -> Sharing:
        return Sharing(self.prior, self.settings, first=name == self.first)


def mixture(
    *,
    components: int,
    zero_share: float,
    span: float,
    strength: float,
    examples: int,
    mean_rate: float,
    precision_rate: float,
    mixing_rate: float,
) -> Mixtures:
    """A mixture prior for all weights, and its learning rates: see `methods.soft_weight_sharing`."""
    if not 0 < zero_share < 1:
        raise SecateurError(f"`zero_share` must be in (0, 1), got {zero_share}: it is the part of the weights that go.")
    if components < 1 or examples < 1 or not (0 <= strength < math.inf and 0 < span < math.inf):
        raise SecateurError(
            "mixture needs components >= 1, examples >= 1, strength >= 0 and span > 0, got "
            f"components={components}, examples={examples}, strength={strength} and span={span}."
        )
    for rate in (mean_rate, precision_rate, mixing_rate):
        if not 0 <= rate < math.inf:
            raise SecateurError(f"the learning rates of a mixture must be at least 0 and finite, got {rate}.")
    return Mixtures(components, zero_share, span, strength, examples, mean_rate, precision_rate, mixing_rate)
