"""Gaussian noise on each weight, as much as it bears; a weight that is mostly noise goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur.axes import Gate, Stand
from secateur.gates._local import local, output

K1, K2, K3 = 0.63576, 1.87320, 1.48695
BOUND = 8.0  # of log α in training


class VariationalDropout(Gate):
    """q(w) = N(θ, σ²), one σ² per weight: θ is the weight itself, and log σ² is learned.

    Of linear and convolutional layers the outputs are drawn (local reparametrisation), of others the weights.
    """

    own_trainer: ClassVar[bool] = True
    steps: Tensor

    def __init__(self, parameter: nn.Parameter, settings: VariationalDropouts) -> None:
        super().__init__()
        self.settings = settings
        self.log_sigma2 = nn.Parameter(torch.full_like(parameter.detach(), settings.start))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def meet(self, layers: Sequence[nn.Module]) -> None:
        self.stands_on = Stand.LAYER if all(local(each) for each in layers) else Stand.WEIGHT

    def forward(self, stood_on: nn.Module | Tensor, *inputs: Any) -> Tensor:
        if isinstance(stood_on, Tensor):
            return self._drawn(stood_on)
        layer: Any = stood_on
        if not self.training:
            return output(layer, inputs[0], self._drawn(layer.weight), layer.bias)
        theta, sigma = self._moments(layer.weight)
        mean = output(layer, inputs[0], theta, layer.bias)
        spread = output(layer, inputs[0].square(), sigma.square(), None)
        return mean + (spread + 1e-8).sqrt() * torch.randn_like(mean)

    def log_alpha(self, weight: Tensor) -> Tensor:
        """log α = log σ² − log(θ² + 1e−8), within ±8."""
        return (self.log_sigma2 - (weight.square() + 1e-8).log()).clamp(-BOUND, BOUND)

    def divergence(self, weight: Tensor) -> Tensor:
        """KL of q from the log-uniform prior, of each weight, by the paper's fit (0 for α → ∞)."""
        log_alpha = self.log_alpha(weight)
        return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)

    def penalty(self, weight: Tensor) -> Tensor:
        settings = self.settings
        warm = min(1.0, int(self.steps) / settings.warm_up) if settings.warm_up else 1.0
        total: Any = _Divergence.apply(weight, self.log_sigma2)
        return settings.strength * warm / settings.examples * total

    def keep(self, weight: Tensor) -> Tensor:
        return self.log_alpha(weight) < self.settings.threshold

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.steps += 1

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.settings.rate)

    def _moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """θ and σ of each weight, both zero where `clip` has it gone already."""
        sigma = (0.5 * self.log_sigma2).exp()  # not the root of a variance: its slope at zero is infinite
        if not self.settings.clip:
            return weight, sigma
        with torch.no_grad():
            stays = self.keep(weight)
        return weight * stays, sigma * stays

    def _drawn(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * self.keep(weight)
        theta, sigma = self._moments(weight)
        return theta + sigma * torch.randn_like(weight)


class _Divergence(torch.autograd.Function):
    """Σ KL and its slopes in one walk over parts that stay in the cache; autograd would go over all some 30 times."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_sigma2: Tensor) -> Tensor:
        theta, spread = weight.reshape(-1), log_sigma2.reshape(-1)
        of_theta, of_spread = torch.empty_like(theta), torch.empty_like(spread)
        size, total = 1 << (14 if weight.device.type == "cpu" else 22), torch.zeros_like(spread[:1]).sum()
        for at in range(0, len(theta), size):
            here = slice(at, at + size)
            energy = theta[here].square() + 1e-8
            free = spread[here] - energy.log()
            log_alpha = free.clamp(-BOUND, BOUND)
            step = torch.sigmoid(-K2 - K3 * log_alpha)
            total += (K1 * step + 0.5 * F.softplus(-log_alpha)).sum()
            slope = -K1 * K3 * step * (1 - step) - 0.5 * torch.sigmoid(-log_alpha)
            of_spread[here] = slope.mul_(free.abs() <= BOUND)
            of_theta[here] = -2 * slope * theta[here] / energy
        ctx.save_for_backward(of_theta.view_as(weight), of_spread.view_as(log_sigma2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        of_theta, of_spread = ctx.saved_tensors
        return grads[0] * of_theta, grads[0] * of_spread


@dataclass(frozen=True)
class VariationalDropouts:
    """Puts a `VariationalDropout` on every weight."""

    examples: int
    warm_up: int
    threshold: float
    start: float
    strength: float
    rate: float
    clip: bool

    def __call__(self, name: str, parameter: nn.Parameter) -> VariationalDropout:
        return VariationalDropout(parameter, self)


def variational(
    *, examples: int, warm_up: int, threshold: float, start: float, strength: float, rate: float, clip: bool
) -> VariationalDropouts:
    """Noise whose price is `strength` · KL / `examples`, risen to over `warm_up` steps: see
    `methods.variational_dropout`."""
    if not -BOUND < threshold < BOUND:
        raise SecateurError(
            f"`threshold` is a log α, which is kept within ±{BOUND:g}: it must lie between, got {threshold}. The "
            "paper's 3 cuts what is noise to 95 %."
        )
    if examples < 1 or warm_up < 0 or not (0 <= strength < math.inf and 0 < rate < math.inf):
        raise SecateurError(
            "variational needs examples >= 1, warm_up >= 0, strength >= 0 and rate > 0, got "
            f"examples={examples}, warm_up={warm_up}, strength={strength} and rate={rate}."
        )
    return VariationalDropouts(examples, warm_up, threshold, start, strength, rate, clip)
