"""The kinds of evidence a score may ask for by argument name.

| argument | what it is | needs | a number per |
|---|---|---|---|
| `weight` | the weight itself, w | nothing | entry |
| `rows` | the weight as a matrix, one row per output unit | nothing | layer |
| `kernels` | the weight as kernels, [out, in, positions] | nothing | layer |
| `noise` | uniform random numbers | nothing | entry |
| `grad` | Σ_b ∂L_b/∂w, signed sum over batches | labels | entry |
| `grad_magnitude` | Σ_b abs(∂L_b/∂w) | labels | entry |
| `grad_average` | moving average of ∂L_b/∂w | labels | entry |
| `fisher` | Σ_b (∂L_b/∂w)² | labels | entry |
| `movement` | −Σ_b w_b ∂L_b/∂w, how far training moves w from zero | labels | entry |
| `hessian_grad` | H g, curvature times gradient | labels | entry |
| `hessian_diag` | ∂²L/∂w², by random signs | labels | entry |
| `flow` | ∂R/∂w of the all-positive network, R the sum of its outputs for an input of ones | input shapes | entry |
| `input_norm` | ‖x‖₂ of the input that each entry multiplies | inputs | entry |
| `activity` | how often a unit's output is positive | inputs | unit |
| `norm_scale` | abs(γ) of the batch norm that reads a layer's output | nothing | unit |
| `gram` | X Xᵀ of a layer's inputs | inputs | layer |
| `input_variance` | variance of each input channel | inputs | input |

During training the same measures of gradients live in an `Observer`, which sees every step.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.measures._activations import Call, LayerCollector, watched
from secateur.measures._batch import Batch, Loss, call, cross_entropy, inputs_of, logits_of, loss_of
from secateur.measures._curvature import hessian_diag, hessian_grad
from secateur.measures._flow import flow, ones_like_inputs
from secateur.measures._gather import gather, moved
from secateur.measures._gradients import fisher, grad, grad_average, grad_magnitude, movement
from secateur.measures._measure import Collector, Level, Measure, Memory, Needs, State
from secateur.measures._observe import Observer, check_online, distinct, observe
from secateur.measures._plain import kernels, noise, norm_scale, normalised, rows, weight
from secateur.measures._preserve import preserved, recast_buffers, swapped
from secateur.measures._probe import Evidence, Params, Probe, at_least_float32
from secateur.measures._reduction import all_mean, all_norm, all_sum, from_all_ranks, from_first_rank, reduced
from secateur.measures._running import Running
from secateur.measures._signals import activity, gram, input_norm, input_variance

#: Argument name → factory of the measure that serves it by default.
KNOWN: dict[str, Callable[[], Measure]] = {
    "weight": weight,
    "noise": noise,
    "grad": grad,
    "grad_magnitude": grad_magnitude,
    "grad_average": grad_average,
    "fisher": fisher,
    "movement": movement,
    "hessian_grad": hessian_grad,
    "hessian_diag": hessian_diag,
    "flow": flow,
    "input_norm": input_norm,
    "activity": activity,
    "gram": gram,
    "input_variance": input_variance,
    "norm_scale": norm_scale,
    "rows": rows,
    "kernels": kernels,
}

__all__ = [
    "KNOWN",
    "Batch",
    "Call",
    "Collector",
    "Evidence",
    "LayerCollector",
    "Level",
    "Loss",
    "Measure",
    "Memory",
    "Needs",
    "Observer",
    "Params",
    "Probe",
    "Running",
    "State",
    "activity",
    "all_mean",
    "all_norm",
    "all_sum",
    "at_least_float32",
    "call",
    "check_online",
    "cross_entropy",
    "distinct",
    "fisher",
    "flow",
    "from_all_ranks",
    "from_first_rank",
    "gather",
    "grad",
    "grad_average",
    "grad_magnitude",
    "gram",
    "hessian_diag",
    "hessian_grad",
    "input_norm",
    "input_variance",
    "inputs_of",
    "kernels",
    "logits_of",
    "loss_of",
    "moved",
    "movement",
    "noise",
    "norm_scale",
    "normalised",
    "observe",
    "ones_like_inputs",
    "preserved",
    "recast_buffers",
    "reduced",
    "rows",
    "swapped",
    "watched",
    "weight",
]
