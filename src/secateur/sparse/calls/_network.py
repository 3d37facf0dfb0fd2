"""Run a native network on torch tensors, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.sparse.calls._build import Network
from secateur.sparse.calls._limits import first_order
from secateur.sparse.calls._tensors import addresses, contiguous

_SPARE = 2  # workspaces kept for each batch size


def slot_tensors(network: Network) -> tuple[Tensor | None, ...]:
    """Return the parameters and buffers that belong into the network's slots, as they are now."""
    return tuple([m._parameters[n] if n in m._parameters else m._buffers.get(n) for m, n in network.slots])


def run_network(x: Tensor, network: Network, tensors: Sequence[Tensor | None], *, training: bool) -> Tensor:
    """Compute the network's output for a batch, differentiably in the input and in the tensors.

    Args:
        x: [batch, …], float32 on the CPU, at least one sample.
        network: built for inputs of this shape.
        tensors: one for each of the network's slots; `slot_tensors` finds them.
        training: whether normalisation uses the batch's statistics, and updates its running ones.

    Returns:
        [batch, …] of the network's output shape, contiguous.
    """
    if torch.is_grad_enabled() and (x.requires_grad or any(t is not None and t.requires_grad for t in tensors)):
        return _Run.apply(x, network, training, *tensors)  # type: ignore[return-value]
    lease = _Lease(network, x.shape[0], False)
    return _forward(x.detach(), network, training, tensors, lease.work)


class _Lease:
    """A workspace that goes back to the network's spare ones when nobody refers to this lease any more.

    It is large: to map it anew at every call would take as long as the network itself.
    """

    def __init__(self, network: Network, samples: int, training: bool) -> None:
        self.spare = network.spare.setdefault((samples, training), [])
        try:
            self.work = self.spare.pop()  # another thread may have been faster
        except IndexError:
            floats = network.native.work_floats(samples, training)
            self.work = torch.zeros(floats, dtype=torch.float32, device="cpu")

    def __del__(self) -> None:
        if len(self.spare) < _SPARE:
            self.spare.append(self.work)


def _forward(x: Tensor, network: Network, training: bool, tensors: Sequence[Tensor | None], work: Tensor) -> Tensor:
    x, plain = x.contiguous(), contiguous(*tensors)
    out = torch.empty((x.shape[0], *network.shape), dtype=torch.float32, device="cpu")
    network.native.forward(
        addresses(*plain), x.data_ptr(), x.shape[0], training, work.data_ptr(), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


class _Run(torch.autograd.Function):
    """One call forward and one backward for the whole network; activations stay in the kernels' layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Network, training: bool, *tensors: Tensor | None) -> Tensor:
        ctx.lease = _Lease(network, x.shape[0], True)
        ctx.network, ctx.training, ctx.x_shape = network, training, x.shape
        ctx.save_for_backward(*tensors)
        return _forward(x, network, training, tensors, ctx.lease.work)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved: tuple[Tensor | None, ...] = ctx.saved_tensors
        need_x, _, _, *needs = ctx.needs_input_grad
        found = tuple(
            torch.zeros(t.shape, dtype=torch.float32, device="cpu") if need and t is not None else None
            for t, need in zip(saved, needs, strict=True)
        )
        dx = torch.empty(ctx.x_shape, dtype=torch.float32, device="cpu") if need_x else None
        dy, plain = grads[0].contiguous(), contiguous(*saved)
        ctx.network.native.backward(
            addresses(*plain), addresses(*found), dy.data_ptr(), ctx.x_shape[0], ctx.training,
            ctx.lease.work.data_ptr(), *addresses(dx), torch.get_num_threads(),
        )  # fmt: skip
        return dx, None, None, *found
