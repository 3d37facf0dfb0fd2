"""Copies of models: on meta, where nothing is computed, or as they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ["moved", "on_meta", "running", "undisturbed"]


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy with the same classes and attributes, and its tensors on meta."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers(), *held]:
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    return copy.deepcopy(model, memo)


def moved(value: Any, device: str) -> Any:
    """Return the tensors of a tree on another device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


@contextlib.contextmanager
def running(model: nn.Module, stack: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """Keep the stack of running modules, in eval mode, and torch's fused paths off.

    Args:
        model: a copy that nobody else uses: its modes and hooks are changed.
        stack: (path, module), the innermost last.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    handles: list[Any] = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(_push(stack, path)))
        handles.append(module.register_forward_hook(_pop(stack), always_call=True))
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()


def _push(stack: list[tuple[str, nn.Module]], path: str) -> Any:
    def push(module: nn.Module, _: Any) -> None:
        stack.append((path, module))

    return push


def _pop(stack: list[tuple[str, nn.Module]]) -> Any:
    def pop(module: nn.Module, _: Any, __: Any) -> None:
        stack.pop()

    return pop


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave the global random generators of torch as they were, those of the model's devices too."""
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    kinds = {device.type for device in devices}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in kinds:
            own = [device.index or 0 for device in devices if device.type == kind]
            stack.enter_context(torch.random.fork_rng(devices=own, device_type=kind))
        yield
