"""Compare whole models: what each layer gains by itself is not what they gain together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.convert._inputs import Inputs, call
from secateur.sparse.layers import SparseLinear
from secateur.sparse.timing import Verdict, decide, undisturbed


def whole_verdict(first: nn.Module, second: nn.Module, inputs: Inputs, *, training: bool) -> Verdict:
    """Time two models side by side on these inputs, and leave both as they were; neither may have gradients yet.

    In training with `backward`, as training calls it: only there do the hooks run that hold zeros.

    Args:
        first, second: the models, in the mode they are to be timed in.
        inputs: what they are called with.
        training: forward and backward, or the forward pass alone.
    """
    with undisturbed([first, second]):
        return decide(_runner(first, inputs, training), _runner(second, inputs, training), seconds=1.0)


def _runner(model: nn.Module, inputs: Inputs, training: bool) -> Callable[[], object]:
    return partial(_train if training else _infer, model, inputs)


def _infer(model: nn.Module, inputs: Inputs) -> None:
    with torch.no_grad():
        call(model, inputs)


def _train(model: nn.Module, inputs: Inputs) -> None:
    for module in model.modules():
        if isinstance(module, SparseLinear):
            module.train(module.training)  # what was rounded is rounded anew, as at each step that changes the values
    parts = [part for part in tensors_in(call(model, inputs)) if part.requires_grad]
    if parts:  # else nothing is to be trained, and a forward pass is all that training does
        torch.autograd.backward(parts, [torch.ones_like(part) for part in parts])
    model.zero_grad(set_to_none=True)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, whatever holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_in(value)
