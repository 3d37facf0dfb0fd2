"""Random pruning with Erdős–Rényi-kernel quotas per layer."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights


def score(noise: Tensor) -> Tensor:
    return noise


def erk(density: float, *, power: float = 1.0) -> Method:
    """Keep random weights, more densely in thin layers: the sparse initialisation of RigL.

    d_l = ε·((n_in + n_out + k_h + k_w)/(n_in·n_out·k_h·k_w))^`power` with ε such that Σ d_l N_l = κ; layers above
    1 are kept dense and ε is solved again.

    Family: at initialisation.
    Source: Evci et al., RigL, arXiv 1911.11134, §3 (1); ER without kernel sizes in SET, arXiv 1707.04780.
    Deviates: counts are exact (largest remainders, total κ); ITOP and GraNet draw Bernoulli masks whose count varies.
    """
    return method("erk", score, structure=weights(), scope=scope.erk(power=power), schedule=once(density))
