"""Which modules are root mean square norms, by what they compute: a hand-written one is known without its name."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from secateur.coupling.rules import Rms

__all__ = ["find_rms"]

_LARGEST_EPSILON = 1e-2


def find_rms(model: nn.Module) -> list[Rms]:
    """Find the modules that compute x · (mean x² + ε)^-½ · w or · (1 + w), with ε in an attribute of theirs.

    Each is run once on random numbers in float64, on the CPU, with weights of its own; one of a class and a width
    speaks for all that have the same attributes.
    """
    found: list[Rms] = []
    known: dict[tuple[object, ...], Rms | None] = {}
    for path, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if (
            len(parameters) != 1
            or next(module.children(), None) is not None
            or next(module.buffers(), None) is not None
        ):
            continue
        ((name, weight),) = parameters.items()
        if weight.ndim != 1 or weight.numel() < 2:
            continue
        plain = tuple((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str | None))
        key = (type(module), name, weight.numel(), plain)
        if key not in known:
            known[key] = _probe(path, module, name, weight.numel())
        like = known[key]
        if like is not None:
            found.append(Rms(path, like.weight, like.epsilon, like.plus_one))
    return found


def _probe(path: str, module: nn.Module, name: str, width: int) -> Rms | None:
    own = torch.Generator().manual_seed(0)
    x = torch.randn(3, width, dtype=torch.float64, generator=own)
    weight = torch.rand(width, dtype=torch.float64, generator=own) + 0.5
    got: Tensor | None = None
    with contextlib.suppress(Exception), torch.no_grad():
        got = torch.func.functional_call(module, {name: weight}, (x,))
    if not isinstance(got, Tensor) or got.shape != x.shape:
        return None
    for epsilon, value in _epsilons(module):
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + value)
        for plus_one in (False, True):
            if torch.allclose(got.double(), scaled * (weight + plus_one), rtol=1e-6, atol=1e-7):
                return Rms(path, name, epsilon, plus_one)
    return None


def _epsilons(module: nn.Module) -> list[tuple[str, float]]:
    found = [(k, v) for k, v in vars(module).items() if isinstance(v, float) and 0 < v < _LARGEST_EPSILON]
    if isinstance(module, nn.RMSNorm) and module.eps is None:
        found.append(("eps", torch.finfo(torch.float64).eps))
    return found
