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

from secateur.measures._curvature import hessian_grad
from secateur.measures._flow import flow
from secateur.measures._gather import check_online, gather, observe
from secateur.measures._gradients import fisher, grad, grad_average, grad_magnitude
from secateur.measures._measure import (
    Batch,
    Collector,
    Evidence,
    Loss,
    Measure,
    Params,
    Probe,
    all_sum,
    from_first_rank,
    reduced,
)
from secateur.measures._plain import noise, weight
from secateur.measures._preserve import preserved, swapped

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
    "Batch",
    "Collector",
    "Evidence",
    "Loss",
    "Measure",
    "Params",
    "Probe",
    "all_sum",
    "check_online",
    "fisher",
    "flow",
    "from_first_rank",
    "gather",
    "grad",
    "grad_average",
    "grad_magnitude",
    "hessian_grad",
    "noise",
    "observe",
    "preserved",
    "reduced",
    "swapped",
    "weight",
]
