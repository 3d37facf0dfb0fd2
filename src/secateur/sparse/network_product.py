"""Run a native network on torch tensors, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.sparse.network import Network

__all__ = ["run_network"]


def run_network(x: Tensor, network: Network, *, training: bool) -> Tensor:
    """Compute the network's output for a batch, differentiably in the input and the parameters in its slots.

    Args:
        x: [batch, …], float32 on the CPU, at least one sample.
        network: built for inputs of this shape.
        training: whether normalisation uses the batch's statistics, and updates its running ones.

    Returns:
        [batch, …] of the network's output shape, contiguous.
    """
    tensors = tuple(module._parameters.get(name, module._buffers.get(name)) for module, name in network.slots)
    if torch.is_grad_enabled() and (x.requires_grad or any(t is not None and t.requires_grad for t in tensors)):
        return _Run.apply(x, network, training, *tensors)  # type: ignore[return-value]
    return _forward(x.detach(), network, training, tensors, _work(network, x.shape[0], False))


def _work(network: Network, samples: int, training: bool) -> Tensor:
    return torch.zeros(network.native.work_floats(samples, training), dtype=torch.float32, device="cpu")


def _addresses(tensors: tuple[Tensor | None, ...]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


def _forward(x: Tensor, network: Network, training: bool, tensors: tuple[Tensor | None, ...], work: Tensor) -> Tensor:
    x = x.contiguous()
    tensors = tuple(None if t is None else t.contiguous() for t in tensors)
    out = torch.empty((x.shape[0], *network.shape), dtype=torch.float32, device="cpu")
    network.native.forward(
        _addresses(tensors), x.data_ptr(), x.shape[0], training, work.data_ptr(), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


class _Run(torch.autograd.Function):
    """One call forward and one backward for the whole network; activations stay in the kernels' layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Network, training: bool, *tensors: Tensor | None) -> Tensor:
        work = _work(network, x.shape[0], True)
        ctx.network, ctx.training, ctx.x_shape = network, training, x.shape
        ctx.save_for_backward(work, *tensors)
        return _forward(x, network, training, tensors, work)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grads: Any
    ) -> tuple[Tensor | None, ...]:
        work, *saved = ctx.saved_tensors
        need_x, _, _, *needs = ctx.needs_input_grad
        found = tuple(
            torch.zeros(t.shape, dtype=torch.float32, device="cpu") if need and t is not None else None
            for t, need in zip(saved, needs, strict=True)
        )
        dx = torch.empty(ctx.x_shape, dtype=torch.float32, device="cpu") if need_x else None
        dy = grads[0].contiguous()
        tensors = tuple(None if t is None else t.contiguous() for t in saved)
        ctx.network.native.backward(
            _addresses(tensors), _addresses(found), dy.data_ptr(), ctx.x_shape[0], ctx.training, work.data_ptr(),
            0 if dx is None else dx.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return dx, None, None, *found
