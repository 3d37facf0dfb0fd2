"""Wrappers under which a zero in the parameter is no zero in the weight, refused with the way out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from secateur._base.errors import MaskError

_PARAMETRIZED = "parametrizations"


def refuse(model: nn.Module, names: Iterable[str]) -> None:
    """Raise a `MaskError` if `model`, or the module of one of the `names`, is wrapped in a way not served.

    Refused are FSDP1, TorchScript, and for the parameters named: parametrizations, `torch.nn.utils.prune`,
    old-style weight and spectral norm, and packed or integer weights of a quantiser.
    """
    for module in model.modules():
        _refuse_module(module)
    for name in names:
        path, _, attribute = name.rpartition(".")
        outer, cut, inner = path.rpartition(f"{_PARAMETRIZED}.")
        if cut:
            path, attribute = outer.removesuffix("."), inner
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue  # an unknown name: `Masks.check` says so
        _refuse_parameter(module, name, attribute)


def _refuse_module(module: nn.Module) -> None:
    if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
        raise MaskError(
            "the model is wrapped in FSDP1 (FullyShardedDataParallel), which melts parameters together; "
            "use FSDP2 (torch.distributed.fsdp.fully_shard), which keeps them"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise MaskError(
            "the model is a TorchScript module, whose parameters hooks cannot follow; "
            "hold and train the Python module, and script it after training"
        )


def _refuse_parameter(module: nn.Module, name: str, attribute: str) -> None:
    if parametrize.is_parametrized(module, attribute):
        raise MaskError(
            f"{name!r} is computed by a parametrization; fold it first: "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})"
        )
    base = attribute.removesuffix("_orig")
    if f"{base}_orig" in module._parameters and f"{base}_mask" in module._buffers:
        raise MaskError(
            f"{name!r} is masked by torch.nn.utils.prune; fold it first: "
            f"torch.nn.utils.prune.remove(module, {base!r}) (Masks.from_zeros reads its mask back)"
        )
    if f"{base}_orig" in module._parameters and f"{base}_u" in module._buffers:
        raise MaskError(
            f"{name!r} is computed by spectral_norm; fold it first: "
            f"torch.nn.utils.remove_spectral_norm(module, {base!r})"
        )
    base = attribute.removesuffix("_g").removesuffix("_v")
    if f"{base}_g" in module._parameters and f"{base}_v" in module._parameters:
        raise MaskError(
            f"{name!r} is computed by weight_norm; fold it first: torch.nn.utils.remove_weight_norm(module, {base!r})"
        )
    parameter = module._parameters.get(attribute)
    packed = parameter is None and callable(getattr(module, attribute, None))
    if packed or (parameter is not None and not (parameter.is_floating_point() or parameter.is_complex())):
        raise MaskError(f"{name!r} is packed by a quantiser; prune and train first, quantise afterwards")
