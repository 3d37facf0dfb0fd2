"""Initial weights through which signals carry: the edge of chaos, and orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.masks import layouts, prunable, unwrap

__all__ = ["correlation_slope", "edge_of_chaos", "edge_of_chaos_", "orthogonal_", "singular_values"]

Activation = Callable[[Tensor], Tensor]

_EXACT = 1e-9
_NODES, _ROUNDS = 200, 1000  # an even number: no node at 0, where ReLU has a kink


def _gauss() -> tuple[Tensor, Tensor]:
    """Nodes z and weights such that Σ w f(z) = E f(Z) for standard normal Z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def correlation_slope(activation: Activation, weight_std: float, bias_std: float = 0.0) -> float:
    """χ = σ_w² E[φ′(√q Z)²] at the fixed point q = σ_b² + σ_w² E[φ(√q Z)²]: how differences grow by layers.

    Below 1 signals become alike (order), above 1 they part (chaos).

    Args:
        activation: φ.
        weight_std: σ_w; weights have variance σ_w² / fan-in.
        bias_std: σ_b.

    Source: Schoenholz et al., arXiv 1611.01232, §2; Hayou et al., arXiv 2002.08797, §2.

    >>> round(correlation_slope(torch.relu, 2**0.5), 6)  # He's
    1.0
    """
    z, weights = _gauss()
    q = 1.0
    for _ in range(_ROUNDS):
        mean = float((weights * activation(math.sqrt(q) * z).square()).sum())
        after = min(max(bias_std**2 + weight_std**2 * mean, 1e-12), 1e12)
        if math.isclose(after, q, rel_tol=1e-12):
            break
        q = after
    with torch.enable_grad():
        x = (math.sqrt(q) * z).requires_grad_(True)
        slope = torch.autograd.grad(activation(x).sum(), x)[0]
    return weight_std**2 * float((weights * slope.square()).sum())


def edge_of_chaos(activation: Activation = torch.relu, bias_std: float = 0.0) -> float:
    """σ_w with χ = 1 at its own fixed point, by bisection over q: √2 for ReLU without biases, whatever the signal.

    Args:
        activation: φ, with φ′ not 0 everywhere.
        bias_std: σ_b.

    Raises:
        SecateurError: no σ_w is at the edge.

    >>> round(edge_of_chaos(), 4), round(edge_of_chaos(torch.tanh), 2)
    (1.4142, 1.0)
    """
    if bias_std < 0:
        raise SecateurError(f"`bias_std` must not be negative, got {bias_std}.")
    z, weights = _gauss()

    def moments(q: float) -> tuple[float, float]:
        """σ_w² with χ = 1 at this q, and by how much the next q would be more."""
        with torch.enable_grad():
            x = (math.sqrt(q) * z).requires_grad_(True)
            value = activation(x)
            slope = torch.autograd.grad(value.sum(), x)[0]
        scale = 1 / max(float((weights * slope.square()).sum()), 1e-300)
        return scale, bias_std**2 + scale * float((weights * value.detach().square()).sum()) - q

    if abs(moments(1.0)[1]) < _EXACT:  # as of ReLU: every q is a fixed point
        return math.sqrt(moments(1.0)[0])
    grid = [10 ** (k / 10) for k in range(-120, 61)]
    above = next((q for q in grid if moments(q)[1] < 0), None)
    if above == grid[0] or (above is None and moments(grid[0])[1] < _EXACT):
        return math.sqrt(moments(grid[0])[0])  # the signal vanishes at the edge, as of tanh without biases
    if above is None:
        raise SecateurError(
            f"No deviation of the weights is at the edge of chaos of this activation with bias_std={bias_std:g}. "
            "Choose another `bias_std`, or draw the weights yourself."
        )
    low, high = above / 10**0.1, above
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if moments(middle)[1] < 0 else (middle, high)
    return math.sqrt(moments(math.sqrt(low * high))[0])


@torch.no_grad()
def edge_of_chaos_(
    model: nn.Module,
    activation: Activation = torch.relu,
    *,
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> None:
    """Draw the weights of linear and convolutional layers anew at the edge of chaos, and their biases.

    w ~ N(0, σ_w²/fan-in), b ~ N(0, σ_b²), with σ_w from `edge_of_chaos`. Residual branches F are stable with
    y = x + F(x)/√L for L branches (arXiv 2002.08797, §4), which is for the model's own code to say.

    Args:
        model: overwritten.
        activation: φ.
        bias_std: σ_b.
        generator: draws on its own device; by default the global one.
    """
    std = edge_of_chaos(activation, bias_std)
    for module, weight in _weights(model).values():
        fan_in = weight[0].numel()
        weight.copy_(_normal(weight, std / math.sqrt(fan_in), generator))
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.copy_(_normal(bias, bias_std, generator))


@torch.no_grad()
def orthogonal_(model: nn.Module, *, gain: float = 1.0, generator: torch.Generator | None = None) -> None:
    """Draw the weights of linear and convolutional layers as orthogonal matrices [out, in · kernel] times `gain`.

    Biases are 0. All singular values of each are `gain`: layer-wise dynamical isometry.
    Source: Lee, Ajanthan, Gould & Torr, arXiv 1906.06307, §4; Saxe et al., arXiv 1312.6120.
    Deviates: kernels as matrices, where the authors put an orthogonal matrix in the middle of each kernel.

    Args:
        model: overwritten.
        gain: of each layer; √2 for ReLU.
        generator: draws on its own device; by default the global one.
    """
    for module, weight in _weights(model).values():
        wide = weight.shape[0] < weight[0].numel()
        drawn = _normal(weight.flatten(1), 1.0, generator).double()
        q, r = torch.linalg.qr(drawn.T if wide else drawn)
        q = q * r.diagonal().sign()  # each orthogonal matrix as likely as the others
        weight.copy_((gain * (q.T if wide else q)).reshape(weight.shape))
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()


def singular_values(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The singular values of each tensor as a matrix [out, in · kernel], the largest first, in float64.

    >>> singular_values({"w": torch.tensor([[3.0, 0.0], [0.0, 2.0]])})["w"].round(decimals=6)
    tensor([3., 2.], dtype=torch.float64)
    """
    return {name: torch.linalg.svdvals(w.detach().flatten(1).double()) for name, w in weights.items()}


def _normal(like: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    where = like.device if generator is None else generator.device
    return (std * torch.randn(like.shape, generator=generator, device=where)).to(like.device, like.dtype)


def _weights(model: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    """The prunable weights of linear and convolutional layers, outputs first (a view), with their modules."""
    network = unwrap(model)
    params = prunable(network, frozen=True)
    turned, found = layouts(network, params), {}
    for name, parameter in params.items():
        module = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention) or parameter.dim() < 2:
            raise SecateurError(
                f"{name!r} of {type(module).__name__} is not of a linear or convolutional layer: draw it yourself."
            )
        found[name] = (module, turned[name].to_canonical(parameter) if name in turned else parameter)
    return found
