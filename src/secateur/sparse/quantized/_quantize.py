"""From a dense model and its masks to one whose linear layers have weights of eight bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.masks import Masks, refuse_shared_memory, require_masks
from secateur.sparse.calls import INPUTS
from secateur.sparse.convert import Inputs, Situation, call, copy_with, refuse_nan, refused_by_kernels, tensors_in
from secateur.sparse.layers import SparseInt8Linear
from secateur.sparse.quantized._report import QUANTIZATION, LayerErrors, QuantizationReport


def quantize(model: nn.Module, masks: Masks, *, example_inputs: Inputs | None = None) -> nn.Module:
    """Return a copy of the model for inference whose masked linear layers keep their surviving weights as int8.

    Each masked `nn.Linear` becomes a `SparseInt8Linear`: the weights of one output are whole multiples, from −127 to
    127, of its scale max |W| / 127, and samples are rounded likewise when they come. Sums are exact, in whole numbers;
    AMX-INT8 or AVX512-VNNI multiplies where the processor has it, torch else, with the same result and slower.

    The copy does not train: its parameters want no gradients, and `train()` raises. Other masked parameters are as they
    were, zero where pruned. `secateur.densify` makes ordinary layers of the rounded weights. The model passed in is
    left as it is.

    Args:
        model: the dense model; pruned weights need not be zero yet.
        masks: what survives.
        example_inputs: what the model is called with, as for `sparsify`: with them, the report says by how much outputs
            are off, layer by layer and of the whole model.

    Returns:
        The new model, in evaluation mode. `quantization_of(model)` says what rounding costs.

    Raises:
        MaskError: masks that do not fit the model, or NaN or infinite weights under them.
        SecateurError: a model that is sparsified or quantized already, or in which two parameters share memory, or one
            that does not run on `example_inputs`.

    >>> from secateur.sparse import quantization_of
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[127.0, 3.2]]))
    >>> small = quantize(model, Masks({"weight": torch.tensor([[True, True]])}))
    >>> small.weight.tolist(), small(torch.tensor([[1.0, 0.0]])).tolist()
    ([[127.0, 3.0]], [[127.0]])
    >>> print(quantization_of(small).layers[0])
    weight [1 × 2]: int8: weights off by 0.16%; 1.750 × dense float32
    """
    require_model(model, "quantize(model, masks)")
    require_masks(masks, "quantize(model, masks)")
    refuse_sparsified(model, "quantize")
    catch_up(model)
    refuse_shared_memory(masks.parameters(model), dict(model.named_parameters()))
    refuse_nan(masks, model)
    situation = Situation.of(model, masks, None, 1)
    swaps, lines = _swaps(situation)
    new = _frozen(copy_with(model, swaps))
    dense = None if example_inputs is None else _frozen(copy_with(model, {}))
    for each in (new, dense):
        _cut(each, masks)
    whole = None
    if dense is not None and example_inputs is not None:
        whole, found = _output_errors(dense, new, swaps, example_inputs)
        lines = {path: _with_error(line, found.get(path)) for path, line in lines.items()}
    setattr(new, QUANTIZATION, QuantizationReport(tuple(lines.values()), whole, _through()))
    return new


def _through() -> str:
    return (door.native.int8_set() if door.native is not None else "") or "torch"


def _swaps(situation: Situation) -> tuple[dict[str, nn.Module], dict[str, LayerErrors]]:
    """The layers that are rounded, by path, and a line for each masked parameter."""
    swaps: dict[str, nn.Module] = {}
    lines: dict[str, LayerErrors] = {}
    masks, done = situation.masks, set[str]()
    for path, module in situation.model.named_modules():
        mask = situation.mask(module.weight) if isinstance(module, nn.Linear) else None
        if mask is None or not isinstance(module, nn.Linear):
            continue
        name, shape = situation.name(path, "weight", module.weight), tuple(module.weight.shape)
        done.add(name)
        reason = situation.why_not(module, nn.Linear) or refused_by_kernels(module, torch.bfloat16) or _why_not(module)
        kept = int(mask.count_nonzero())
        if reason is not None:
            lines[path] = LayerErrors(name, shape, kept, reason)
            continue
        made = swaps[path] = SparseInt8Linear.from_dense(module, mask)
        exact = module.weight.detach().float() * mask
        lines[path] = LayerErrors(name, shape, kept, None, _apart(exact, made.weight), bytes=made.bytes)
    for name in masks:
        if name not in done:
            why = "int8 is for the weights of nn.Linear"
            lines[name] = LayerErrors(name, tuple(masks[name].shape), int(masks[name].count_nonzero()), why)
    return swaps, lines


def _why_not(module: nn.Linear) -> str | None:
    if not module.weight.numel():
        return "it has no weights"
    return f"sums over more than {INPUTS:,} inputs need not fit 32 bits" if module.in_features > INPUTS else None


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def _cut(model: nn.Module | None, masks: Masks) -> None:
    """Write zeros where parameters that are still dense are pruned."""
    if model is not None:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in masks:
                parameter.masked_fill_(~masks[name].to(parameter.device), 0)


def _with_error(line: LayerErrors, error: float | None) -> LayerErrors:
    return LayerErrors(line.name, line.shape, line.kept, line.why_not, line.weight_error, error, line.bytes)


def _output_errors(
    dense: nn.Module, new: nn.Module, swaps: Mapping[str, nn.Module], inputs: Inputs
) -> tuple[float | None, dict[str, float]]:
    """How far outputs are off: of the whole model, at most of all its tensors of floats, where it has any; and of each
    layer on the inputs that it has in the dense one.
    """
    found: dict[str, float] = {}
    for path in swaps:
        layer: Any = dense.get_submodule(path)
        layer.register_forward_hook(
            lambda module, args, y, path=path: _note(found, path, module, swaps[path], args[0], y)
        )
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answers = [[t for t in tensors_in(call(each, inputs)) if t.is_floating_point()] for each in (dense, new)]
    except Exception as problem:  # whatever a user's forward raises: the inputs are what it was given
        raise SecateurError(
            f"`example_inputs`: {type(dense).__name__} does not run on them: {type(problem).__name__}: {problem}. Give "
            "what you would call the model with: a tensor, a tuple of arguments, or a mapping of them by name."
        ) from problem
    return max((_apart(*pair) for pair in zip(*answers, strict=True)), default=None), found


def _note(found: dict[str, float], path: str, module: Any, rounded: Any, x: Tensor, y: Tensor) -> None:
    bias = 0 if module.bias is None else module.bias.float()
    error = _apart(y.float() - bias, rounded(x).float() - bias)
    found[path] = max(found.get(path, 0.0), error)


def _apart(want: Tensor, got: Tensor) -> float:
    """Distance relative to what is wanted; 0 where both are 0."""
    far, long = (want.double() - got.double()).norm().item(), want.double().norm().item()
    return far / long if long else (0.0 if not far else float("inf"))
