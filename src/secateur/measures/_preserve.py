"""Leave no trace: run a model for measuring, and find it afterwards exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserved(model: nn.Module, params: Mapping[str, nn.Parameter], *, train: bool | None = None) -> Iterator[None]:
    """Restore modes, buffers, gradients, requires_grad flags and the global random state on leaving.

    Buffers are those found: values, and the tensors themselves where a forward puts others in their place. The random
    state is that of torch, of Python's `random` and of numpy.

    Args:
        model: the model to guard.
        params: parameters that need a gradient inside, frozen or not.
        train: mode of the whole model inside; None leaves each module's own.
    """
    modes = {module: module.training for module in model.modules()}
    homes = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    grads = {parameter: parameter.grad for parameter in model.parameters()}
    frozen = [parameter for parameter in params.values() if not parameter.requires_grad]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            if train is not None:
                model.train(train)
            for parameter in grads:
                parameter.grad = None
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for parameter, grad in grads.items():
            parameter.grad = grad
        random.setstate(state)
        np.random.set_state(numpy_state)
        for module, mode in modes.items():
            module.training = mode
        for own, found in homes:
            own.clear()
            own.update(found)
        with torch.no_grad():
            for buffer, value in buffers.items():
                if buffer.shape != value.shape:
                    buffer.resize_(value.shape)
                buffer.copy_(value)


@contextmanager
def swapped(params: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let parameters hold other values for a while (masked, absolute); the originals come back bit by bit.

    Only the storage behind each parameter is exchanged, so every module, tied or fused (RNN), sees the new values.
    """
    original = {name: params[name].data for name in values}
    try:
        for name, value in values.items():
            params[name].data = value
        yield
    finally:
        for name, data in original.items():
            params[name].data = data
