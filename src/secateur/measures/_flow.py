"""Synaptic flow: what an input of ones sends through the network of absolute weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.measures._batch import call, logits_of
from secateur.measures._measure import Collector, Measure, Needs
from secateur.measures._preserve import recast_buffers, swapped
from secateur.measures._probe import Evidence, Params, Probe
from secateur.measures._running import Running

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_NOISE = 1e-12  # of the whole flow: float64 rounds at 1e-16, so a layer with less than this has none


class _Flow(Running):
    """One forward and backward of R = aᵀ f_|W|(x) in float64; only the shape of the first batch is used."""

    def __init__(self, params: Params, varied: bool = False) -> None:
        super().__init__(params)
        self._varied = varied

    def update(self, probe: Probe) -> None:
        if self.updates:
            return
        model, vary = probe.model, _Varied() if self._varied else _same
        with swapped(dict(model.named_parameters()), _positive(model)), _linear(model), torch.enable_grad():
            outcome = vary(_outputs(call(model, _each(ones_like_inputs(probe.inputs), vary)))).sum()
            _check(outcome)
            found = _without_noise(probe, probe.differentiate(outcome), float(outcome.detach()))
        self.fold(found, own=False)


def _without_noise(probe: Probe, flows: Evidence, total: float) -> Evidence:
    """Set to zero what is rounding: layers whose flow is none of the whole, as before a softmax, whose sum is fixed.

    Without a layer that has any, every score would be noise.
    """
    share = {name: float((flow * probe.params[name].detach()).abs().sum()) / total for name, flow in flows.items()}
    if share and max(share.values()) < _NOISE:
        raise SecateurError(
            f"No layer's weights change the synaptic flow {total:g} beyond rounding: no score can rank them. Does the "
            "model end in a softmax, or in another normalisation of its outputs? Measure it without that."
        )
    return {name: flow if share[name] >= _NOISE else torch.zeros_like(flow) for name, flow in flows.items()}


def _positive(model: nn.Module) -> dict[str, Tensor]:
    """|w| for every weight, 0 for every bias, in float64."""
    biases = {id(p) for module in model.modules() for n, p in module.named_parameters(recurse=False) if "bias" in n}
    return {
        name: torch.zeros_like(p, dtype=torch.float64) if id(p) in biases else p.detach().double().abs()
        for name, p in model.named_parameters()
    }


@contextmanager
def _linear(model: nn.Module) -> Iterator[None]:
    """Make normalisation layers plain scalings, and floating-point buffers float64, for the time of the measurement.

    A layer that subtracts a mean sends an input of ones to nothing; SynFlow reads BN as it is at initialisation, a
    multiplication by γ/√(running variance + ε).
    """
    handles = []
    for module in model.modules():
        if isinstance(module, _BATCH_NORMS):
            handles.append(module.register_forward_hook(_scale_by_statistics))
        elif _is_norm(module):
            handles.append(module.register_forward_hook(_pass_on))
    try:
        with recast_buffers(model, None, torch.float64):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _scale_by_statistics(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    scale = torch.ones((), dtype=torch.float64, device=output.device)
    if module.weight is not None:
        scale = module.weight
    if module.running_var is not None:
        scale = scale / torch.sqrt(module.running_var + module.eps)
    shape = [1, -1] + [1] * (args[0].dim() - 2)
    return args[0] * (scale.reshape(shape) if scale.dim() else scale)


def _is_norm(module: nn.Module) -> bool:
    """Whether it normalises activations: torch's own layers, and those of others by name (`LlamaRMSNorm`).

    A block that contains layers besides (`PreNorm`, `NormAndProject`) is none.
    """
    own = isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.modules.instancenorm._InstanceNorm)
    named = "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
    return own or (named and all(p.dim() <= 1 for p in module.parameters()))


def _pass_on(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Let the input through; a norm of others that changes its shape does something else besides, and stays."""
    passes = bool(args) and isinstance(args[0], Tensor) and isinstance(output, Tensor)
    return args[0] if passes and args[0].shape == output.shape else output


def ones_like_inputs(inputs: Any) -> Any:
    """Return ones of the inputs' shape, for a single sample; token ids stay integers."""
    if isinstance(inputs, Tensor):
        dtype = torch.float64 if inputs.is_floating_point() else inputs.dtype
        return torch.ones_like(inputs[:1], dtype=dtype)
    if isinstance(inputs, Mapping):
        return {key: ones_like_inputs(value) for key, value in inputs.items() if key != "labels"}
    if isinstance(inputs, tuple | list):
        return [ones_like_inputs(value) for value in inputs]
    raise SecateurError(f"Synaptic flow needs tensor inputs to copy the shape of, got {type(inputs).__name__}.")


def _outputs(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return logits_of(output)


class _Varied:
    """Multiplies by numbers between 1 and 2, always the same ones: positive, and no two alike."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor * (1 + torch.rand(tensor.shape, generator=self._generator, dtype=tensor.dtype)).to(tensor.device)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _each(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {key: _each(value, change) for key, value in inputs.items()}
    return [_each(value, change) for value in inputs]


def _check(outcome: Tensor) -> None:
    value = float(outcome.detach())
    if value == 0 or not torch.isfinite(outcome.detach()):
        raise SecateurError(
            f"The synaptic flow through this network is {value}: no score can rank its weights. "
            "A flow of 0 means that no path is left from input to output (density too low, or a layer is all zero)."
        )


@dataclass(frozen=True)
class _Begin:
    varied: bool

    def __call__(self, params: Params) -> Collector:
        return _Flow(params, self.varied)


def flow(*, varied: bool = False) -> Measure:
    """∂R/∂w with R = 1ᵀ (∏_l |W^[l]|) 1, the output of the network of absolute weights for an input of ones.

    Computed in float64 in eval mode, with biases 0 and normalisation layers as plain scalings, on one sample of the
    batch's shape; no data value is used. Times `weight` it is the SynFlow score. Source: arXiv 2006.05467, eq. 2.

    Args:
        varied: inputs and outputs are weighted by fixed numbers between 1 and 2. A softmax of equal inputs passes no
            gradient on to what made them; one of different inputs does. It is how paths are looked for, not a score.

    Deviates: the authors' code keeps |bias| in the forward pass; the equation has none, and with biases the
    conservation law (equal total score in every layer) would not hold.
    """
    return Measure("flow", _Begin(varied), needs=Needs.SHAPES, train=False, reduction=None)
