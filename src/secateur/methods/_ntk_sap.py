"""NTK-SAP: keep what the spectrum of the tangent kernel hangs on, whatever the weights and without data."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import exponential
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.signals import kernel_change


def score(kernel_change: Tensor) -> Tensor:
    return kernel_change.abs()


def ntk_sap(density: float, *, rounds: int = 20, resamples: int = 1, epsilon: float = 0.01) -> Method:
    """Keep the connections on which outputs depend most where weights are perturbed, in many rounds, without data.

    s_j = |m_j ∂/∂m_j Σ ‖f(x; θ ⊙ m) − f(x; (θ + εδ) ⊙ m)‖²| with standard normal x and δ and another draw of θ for
    each sample: a proxy of the trace of the neural tangent kernel that knows neither weights nor data. ρ_t = ρ^{t/T},
    t = 1…T (`rounds`); masks are nested. Only the shape of one batch is used.

    Args:
        density: the fraction that stays.
        rounds: T.
        resamples: draws of x, θ and δ in each round; 5 on CIFAR-10.
        epsilon: ε.

    Family: at initialisation.
    Source: Wang, Li & Sun, "NTK-SAP", ICLR 2023, arXiv 2304.02840, eq. 8 and Algorithm 1.
    Deviates: θ is drawn as a permutation of each tensor's own values, so that it has the law of your initialisation
    (the authors draw anew, and leave the network with the last draw); your weights stay. Biases and norms keep theirs.
    """
    return method(
        "ntk_sap",
        measured(score, {"kernel_change": kernel_change(epsilon=epsilon, resamples=resamples)}),
        structure=weights(),
        scope=everywhere(),
        schedule=exponential(density, rounds=rounds),
    )
