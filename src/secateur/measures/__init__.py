"""The kinds of evidence a score may ask for by argument name.

| argument | what it is | needs |
|---|---|---|
| `weight` | the weight itself, w | nothing |
| `noise` | uniform random numbers | nothing |
| `grad` | Σ_b ∂L_b/∂w, signed sum over batches | labels |
| `grad_magnitude` | Σ_b abs(∂L_b/∂w) | labels |
| `grad_average` | moving average of ∂L_b/∂w | labels |
| `fisher` | Σ_b (∂L_b/∂w)² | labels |
| `hessian_grad` | H g, curvature times gradient | labels |
| `flow` | ∂R/∂w of the all-positive network, R the sum of its outputs for an input of ones | input shape |
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.measure import Measure
from secateur.measures.curvature import hessian_grad
from secateur.measures.flow import flow
from secateur.measures.gradients import fisher, grad, grad_average, grad_magnitude
from secateur.measures.plain import noise, weight

#: Argument name → factory of the measure that serves it by default.
KNOWN: dict[str, Callable[[], Measure]] = {
    "weight": weight,
    "noise": noise,
    "grad": grad,
    "grad_magnitude": grad_magnitude,
    "grad_average": grad_average,
    "fisher": fisher,
    "hessian_grad": hessian_grad,
    "flow": flow,
}

__all__ = [
    "KNOWN",
    "fisher",
    "flow",
    "grad",
    "grad_average",
    "grad_magnitude",
    "hessian_grad",
    "noise",
    "weight",
]
