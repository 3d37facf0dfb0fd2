"""Synaptic flow: what an input of ones sends through the network of absolute weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.measures._measure import Measure, Needs
from secateur.measures._preserve import swapped
from secateur.measures._probe import Probe
from secateur.measures._running import Running

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


class _Flow(Running):
    """One forward and backward of R = 1ᵀ f_|W|(1) in float64; only the shape of the first batch is used."""

    def update(self, probe: Probe) -> None:
        if self.updates:
            return
        model = probe.model
        with swapped(dict(model.named_parameters()), _positive(model)), _linear(model), torch.enable_grad():
            outcome = _sum_of_outputs(_call(model, _ones(probe.inputs)))
            _check(outcome)
            self.fold(probe.differentiate(outcome), own=False)


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
    saved = {}
    for module in model.modules():
        if isinstance(module, _BATCH_NORMS):
            handles.append(module.register_forward_hook(_scale_by_statistics))
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.instancenorm._InstanceNorm):
            handles.append(module.register_forward_hook(_pass_on))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                saved[(module, name)] = buffer
                module._buffers[name] = buffer.double()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for (module, name), buffer in saved.items():
            module._buffers[name] = buffer


def _scale_by_statistics(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    scale = torch.ones((), dtype=torch.float64, device=output.device)
    if module.weight is not None:
        scale = module.weight
    if module.running_var is not None:
        scale = scale / torch.sqrt(module.running_var + module.eps)
    shape = [1, -1] + [1] * (args[0].dim() - 2)
    return args[0] * (scale.reshape(shape) if scale.dim() else scale)


def _pass_on(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return args[0]


def _ones(inputs: Any) -> Any:
    """Ones of the inputs' shape, for a single sample; token ids stay integers."""
    if isinstance(inputs, Tensor):
        dtype = torch.float64 if inputs.is_floating_point() else inputs.dtype
        return torch.ones_like(inputs[:1], dtype=dtype)
    if isinstance(inputs, Mapping):
        return {key: _ones(value) for key, value in inputs.items() if key != "labels"}
    raise SecateurError(f"Synaptic flow needs tensor inputs to copy the shape of, got {type(inputs).__name__}.")


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _sum_of_outputs(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output.sum()
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits.sum()
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0].sum()
    raise SecateurError(f"Synaptic flow needs a model that returns a tensor (or .logits), got {type(output).__name__}.")


def _check(outcome: Tensor) -> None:
    value = float(outcome.detach())
    if value == 0 or not torch.isfinite(outcome.detach()):
        raise SecateurError(
            f"The synaptic flow through this network is {value}: no score can rank its weights. "
            "A flow of 0 means that no path is left from input to output (density too low, or a layer is all zero)."
        )


def flow() -> Measure:
    """∂R/∂w with R = 1ᵀ (∏_l |W^[l]|) 1, the output of the network of absolute weights for an input of ones.

    Computed in float64 in eval mode, with biases 0 and normalisation layers as plain scalings, on one sample of the
    batch's shape; no data value is used. Times `weight` it is the SynFlow score. Source: arXiv 2006.05467, eq. 2.

    Deviates: the authors' code keeps |bias| in the forward pass; the equation has none, and with biases the
    conservation law (equal total score in every layer) would not hold.
    """
    return Measure("flow", _Flow, needs=Needs.SHAPES, train=False, reduction=None)
