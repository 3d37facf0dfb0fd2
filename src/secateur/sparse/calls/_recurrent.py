"""One direction of a sparse LSTM or GRU layer through all time steps, with its gradients: the door to the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from secateur._base import door
from secateur.sparse.calls._limits import first_order
from secateur.sparse.calls._tensors import addresses, contiguous
from secateur.sparse.plans import RecurrentPlan

Tensors = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Pass:
    """How a direction runs: its plan, whether from the last step to the first, and its output's memory order."""

    plan: RecurrentPlan
    reverse: bool
    batch_first: bool


def run_direction(x: Tensor, state: Tensors, how: Pass, weights: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction of a layer over a whole sequence.

    Args:
        x: [time, sample, input], for which `fits` holds.
        state: h₀ and, for an LSTM, c₀, [sample, unit] each; None stands for zeros.
        how: plan and direction.
        weights: surviving values of W_ih and W_hh in the plan's order, b_ih and b_hh (None: zeros).

    Returns:
        The states h of all steps [time, sample, unit], the last h, and the last c (empty for a GRU).
    """
    if torch.compiler.is_compiling():
        return _uncompiled(x, state, how, weights)
    return _run(x, state, how, weights)


def _run(x: Tensor, state: Tensors, how: Pass, weights: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (x, *state, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _Direction.apply(x, *state, how, *weights)  # type: ignore[return-value]
    return _forward(x, state, how, weights, None, _chunks(x))


# `torch.compile` cannot look into the kernels: it breaks its graph here, as in `_chain.py`.
_uncompiled = _disable_dynamo(_run)


def _chunks(x: Tensor) -> int:
    native: Any = door.native
    return native.recurrent_chunks(x.shape[1], torch.get_num_threads())


def _rows(x: Tensor) -> Tensor:
    """Make features consecutive; the other strides are free."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _series(t: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if t is None else (t.data_ptr(), t.stride(0), t.stride(1))


def _empty(*shape: int) -> Tensor:
    # Whatever torch's default type and device are.
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _empty_output(steps: int, samples: int, features: int, batch_first: bool) -> Tensor:
    if batch_first:
        return _empty(samples, steps, features).transpose(0, 1)
    return _empty(steps, samples, features)


def _forward(
    x: Tensor, state: Tensors, how: Pass, weights: Tensors, work: Tensor | None, chunks: int
) -> tuple[Tensor, Tensor, Tensor]:
    plan, (steps, samples, _) = how.plan, x.shape
    x = _rows(x.detach())
    held = contiguous(*weights, *state)
    out = _empty_output(steps, samples, plan.units, how.batch_first)
    h, c = _empty(samples, plan.units), _empty(0 if plan.gru else samples, plan.units)
    plan.layer.forward(
        addresses(*held[:4]), *_series(x), steps, samples, how.reverse, *addresses(*held[4:]), *addresses(work),
        chunks, torch.get_num_threads(), *_series(out), h.data_ptr(), c.data_ptr(),
    )  # fmt: skip
    return out, h, c


class _Direction(torch.autograd.Function):
    """One call forward and one backward, whatever the number of steps."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor | None, c0: Tensor | None, how: Pass, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        work = _empty(how.plan.layer.work_floats(x.shape[0], x.shape[1]))
        ctx.how, ctx.shape, ctx.chunks = how, x.shape, _chunks(x)
        ctx.save_for_backward(work, *weights)
        ctx.set_materialize_grads(False)
        return _forward(x, (h0, c0), how, weights, work, ctx.chunks)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Any) -> Tensors:  # type: ignore[override]
        how: Pass = ctx.how
        plan, (steps, samples, features) = how.plan, ctx.shape
        work, *weights = ctx.saved_tensors
        dy = None if grads[0] is None else _rows(grads[0])
        dh, dc = (None if g is None else g.contiguous() for g in grads[1:])
        need_x, need_h, need_c, _, *needs = ctx.needs_input_grad
        dx = _empty_output(steps, samples, features, how.batch_first) if need_x else None
        dh0, dc0 = (_empty(samples, plan.units) if need else None for need in (need_h, need_c))
        found = [_empty(*w.shape) if need else None for w, need in zip(weights, needs, strict=True)]
        held = contiguous(*weights)  # addresses must not outlive their tensors
        plan.layer.backward(
            addresses(*held), work.data_ptr(), steps, samples, how.reverse, ctx.chunks, torch.get_num_threads(),
            *_series(dy), *addresses(dh, None if plan.gru else dc), addresses(*found), *_series(dx),
            *addresses(dh0, dc0),
        )  # fmt: skip
        return dx, dh0, dc0, None, *found
