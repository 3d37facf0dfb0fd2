"""L0 regularisation: a stochastic gate on every unit, the expected number of open ones a penalty."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import columns
from secateur.gates import hard_concrete


def l0(
    *,
    strength: float = 1 / 60_000,
    open_at_start: float = 0.5,
    inputs_open: float | None = None,
    decay: float = 0.0,
    per_example: bool = False,
) -> Method:
    """Learn which units to keep: gates that are open or shut at random, and a price for each open one.

    Minimise L(w ⊙ z) + λ Σ_g |g|·P(z_g ≠ 0) over weights and log α, |g| the number of weights behind gate g and
    P(z_g ≠ 0) = σ(log α_g − β·log(−γ/ζ)). At the end z = clip(σ(log α)(ζ − γ) + γ, 0, 1) is folded into the weights,
    and what is zero is cut. The density emerges.

    Args:
        strength: λ, per weight; the paper's N⁻¹ with N = 60,000 examples.
        open_at_start: the initial σ(log α); log α itself is drawn around it with deviation 0.01.
        inputs_open: the same of the gates on a perceptron's own inputs, where it differs; the authors' is 0.8.
        decay: of ½·decay·Σ_g P(z_g ≠ 0)·‖w_g‖², the paper's weight decay; the optimizer's own should then be 0.
        per_example: draw z for each example in linear and convolutional layers, not once a batch.

    Family: during training.
    Source: Louizos, Welling & Kingma, arXiv 1712.01312, eqs. 10 to 13; β = 2/3, γ = −0.1, ζ = 1.1.
    Deviates: no decay by default, and inputs as open as other units; biases have no gate; weights are not averaged over
    the steps, as they are for the authors' perceptron (decay rate 0.999).
    """
    return method(
        "l0",
        None,
        structure=columns(),
        scope=scope.everywhere(),
        schedule=once(None),
        relax=hard_concrete(
            strength=strength,
            open_at_start=open_at_start,
            inputs_open=inputs_open,
            decay=decay,
            per_example=per_example,
        ),
    )
