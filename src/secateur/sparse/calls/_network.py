"""Run a native network on torch tensors, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.sparse.calls._build import Network
from secateur.sparse.calls._limits import first_order
from secateur.sparse.calls._tensors import addresses, contiguous, plain


def splits_products() -> bool:
    """Tell whether products of float32 numbers may be taken of two halves of bfloat16 each, by AMX where there is one.

    So they are under bfloat16 autocast, and where torch's own products on the CPU may lose as much: by
    `torch.set_float32_matmul_precision("high")`, whose numbers have about 16 bits as these have, or by
    `torch.backends.mkldnn`. (What is said of CUDA alone is not asked, and the older function raises where the newer
    attributes have been set.)
    """
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16:
        return True
    kinds = (getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv"))
    return any(getattr(kind, "fp32_precision", "none") in ("tf32", "bf16") for kind in kinds)


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
    x, held = plain(x.detach()), contiguous(*tensors)
    out, split = _empty_output(x, network), x.dim() > 2 and splits_products()
    each = x.shape[0] if training else part_of(x.shape[0])
    for part, into in zip(x.split(each), out.split(each), strict=True):
        lease = network.arena.lease(network.native, part.shape[0], False)
        _forward(part, network, training, held, lease.work, into, split)
        del lease  # the next part takes the same workspace
    return out


# The activations of a part stay in the caches from layer to layer; those of a large batch go through memory. Parts are
# of the same size, so that one workspace serves all of them, and whole vectors of 16 samples.
_SAMPLES = 32


def part_of(samples: int) -> int:
    """Return how many samples of a batch should be computed at a time, without gradients.

    >>> [part_of(samples) for samples in (1, 47, 48, 64, 100, 256)]
    [1, 47, 32, 32, 48, 32]
    """
    if samples < 3 * _SAMPLES // 2:
        return samples
    each = -(-samples // round(samples / _SAMPLES))
    return -(-each // 16) * 16


def _empty_output(x: Tensor, network: Network) -> Tensor:
    return torch.empty((x.shape[0], *network.shape), dtype=torch.float32, device="cpu")


def _forward(
    x: Tensor, network: Network, training: bool, held: Sequence[Tensor | None], work: Tensor, out: Tensor, split: bool
) -> None:
    network.native.forward(
        addresses(*held), *addresses(x), x.shape[0], training, *addresses(work, out), torch.get_num_threads(), split
    )


class _Run(torch.autograd.Function):
    """One call forward and one backward for the whole network; activations stay in the kernels' layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Network, training: bool, *tensors: Tensor | None) -> Tensor:
        ctx.lease = network.arena.lease(network.native, x.shape[0], True)
        ctx.network, ctx.training, ctx.x_shape, ctx.split = (
            network,
            training,
            x.shape,
            x.dim() > 2 and splits_products(),
        )
        ctx.save_for_backward(*tensors)
        out = _empty_output(x, network)
        _forward(plain(x), network, training, contiguous(*tensors), ctx.lease.work, out, ctx.split)
        return out

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
        dy, held = plain(grads[0]), contiguous(*saved)
        ctx.network.native.backward(
            addresses(*held), addresses(*found), *addresses(dy), ctx.x_shape[0], ctx.training,
            *addresses(ctx.lease.work, dx), torch.get_num_threads(), ctx.split,
        )  # fmt: skip
        return dx, None, None, *found
