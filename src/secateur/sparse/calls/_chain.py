"""The sparse product with its gradients, for one layer or a chain of layers with a ReLU between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from secateur._base import door
from secateur.sparse.calls._limits import first_order
from secateur.sparse.calls._tensors import addresses, contiguous, fresh, plain
from secateur.sparse.plans import LayerPlan, NativeChain, native_chain

Plans = tuple[LayerPlan, ...]


def sparse_chain(x: Tensor, plans: Plans, values: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> Tensor:
    """Compute W_L relu(… relu(W₁ x + b₁) …) + b_L, differentiably.

    Args:
        x: [..., columns of the first plan], for which `fits` holds.
        plans: one per layer.
        values: the surviving weights of each layer, in the plan's order.
        biases: one per layer, or None.

    Returns:
        [..., rows of the last plan], contiguous.
    """
    if torch.compiler.is_compiling():
        return _uncompiled(x, plans, values, biases)
    return _sparse_chain(x, plans, values, biases)


def _sparse_chain(x: Tensor, plans: Plans, values: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> Tensor:
    shape = x.shape
    rows = x if len(shape) == 2 else x.reshape(-1, plans[0].columns)
    if door.native is None:
        y = _torch_chain(rows, plans, values, biases)
    elif torch.is_grad_enabled() and _any_requires_grad(x, values, biases):
        y = _NativeChain.apply(rows, plans, *values, *biases)  # type: ignore[assignment]
    else:
        y = _forward(rows, plans, values, biases, None)
    return y if len(shape) == 2 else y.view(*shape[:-1], plans[-1].rows)  # type: ignore[return-value,union-attr]


# `torch.compile` cannot look into the kernels: it breaks its graph here. (`torch.compiler.disable` does the same,
# but imports the whole compiler, a second of time, together with this module.)
_uncompiled = _disable_dynamo(_sparse_chain)


# The kernels hold activations feature by feature, one row of all samples each: with many samples few rows fit the
# second-level cache, and a weight costs several times as much. So many at once are the best on every machine tried.
_SAMPLES = 128


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Cut a batch into parts of about as many samples as the kernels like, whole vectors each."""
    count = rows.shape[0]
    if count < 3 * _SAMPLES // 2:
        return (rows,)
    each = -(-count // round(count / _SAMPLES))
    return rows.split(-(-each // 16) * 16)


def _cut(tensor: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return (tensor,) if len(sizes) == 1 else tensor.split(sizes)


def _rooms(native: Any, sizes: list[int]) -> list[tuple[int, int]]:
    """Say where the activations of each part begin and end: what a part needs only until its outputs are written, at
    the end, lies where the next part begins.
    """
    kept = [native.kept_floats(size) for size in sizes]
    starts = [sum(kept[:index]) for index in range(len(sizes))]
    return [(start, start + native.work_floats(size)) for start, size in zip(starts, sizes, strict=True)]


def _any_requires_grad(x: Tensor, values: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> bool:
    return x.requires_grad or any([t is not None and t.requires_grad for t in (*values, *biases)])


def _dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] and not x.is_neg() else plain(x)


def _forward(
    x: Tensor,
    plans: Plans,
    values: tuple[Tensor, ...],
    biases: tuple[Tensor | None, ...],
    work: Sequence[Tensor] | None,
) -> Tensor:
    """Compute the outputs, one part of the batch after the other; `work` has room for the activations of each."""
    chain = native_chain(plans)
    x = _dense_rows(x)
    held, also = contiguous(*values), contiguous(*biases)
    samples, columns = x.shape
    out = fresh(samples, plans[-1].rows)
    if samples == 1 and work is None:
        where = addresses(*held), addresses(*also), x.data_ptr(), columns, *addresses(out)
        _paced(chain, "one sample", chain.native.forward_vector, where, 1)
        return out
    sizes = [len(part) for part in _parts(x)]
    for index, (part, made) in enumerate(zip(_cut(x, sizes), _cut(out, sizes), strict=True)):
        rows = part.data_ptr(), x.stride(0), len(part), columns
        room = addresses(None if work is None else work[index], made)
        _paced(chain, "forward", chain.native.forward, (addresses(*held), addresses(*also), *rows, *room), len(part))
    return out


def _paced(chain: NativeChain, kind: str, call: Callable[..., None], where: tuple[Any, ...], samples: int) -> None:
    """Call the kernels with as many threads as have been found to be fastest; results are the same with any."""
    most = torch.get_num_threads()
    threads = chain.paces.settled.get((kind, samples, most))
    if threads is not None:
        return call(*where, threads)
    worth = partial(chain.native.threads_worth, most, samples)
    return chain.paces.run((kind, samples, most), worth, lambda threads: call(*where, threads))


class _NativeChain(torch.autograd.Function):
    """The whole chain forward and backward, part by part; activations stay in the kernels' layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plans: Plans, *tensors: Tensor | None) -> Tensor:
        count, native = len(plans), native_chain(plans).native
        values: tuple[Any, ...] = tensors[:count]
        ctx.plans, ctx.sizes = plans, [len(part) for part in _parts(x)]
        ctx.rooms = _rooms(native, ctx.sizes)
        work = fresh(max(end for _, end in ctx.rooms))
        ctx.save_for_backward(work, *values)
        return _forward(x, plans, values, tensors[count:], [work[a:b] for a, b in ctx.rooms])

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        plans: Plans = ctx.plans
        work, *values = ctx.saved_tensors
        need_x, _, *needs = ctx.needs_input_grad
        dy = _dense_rows(grads[0])
        held = contiguous(*values)  # an address must not outlive its tensor
        dx = fresh(len(dy), plans[0].columns) if need_x else None
        sizes = [plan.kept for plan in plans] + [plan.rows for plan in plans]
        found = tuple(fresh(n) if need else None for n, need in zip(sizes, needs, strict=True))
        weights, biases = addresses(*found[: len(plans)]), addresses(*found[len(plans) :])
        chain, kind = native_chain(plans), "backward" if dx is None else "backward to the input"
        made: Any = [None] * len(ctx.sizes) if dx is None else _cut(dx, ctx.sizes)
        parts = zip(_cut(dy, ctx.sizes), [work[a:b] for a, b in ctx.rooms], made, strict=True)
        for index, (part, room, inputs) in enumerate(parts):  # the gradients of all parts are summed in place
            where = (
                addresses(*held), *addresses(room), part.data_ptr(), dy.stride(0), len(part), dy.shape[1],
                weights, biases, *addresses(inputs), index > 0,
            )  # fmt: skip
            _paced(chain, kind, chain.native.backward, where, len(part))
        return dx, None, *found


# ------------------------------------------------------------------ without the compiled kernels
def _torch_chain(x: Tensor, plans: Plans, values: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> Tensor:
    for i, (plan, weight, bias) in enumerate(zip(plans, values, biases, strict=True)):
        y = _TorchCsr.apply(x, weight, plan)
        x = y if bias is None else y + bias  # type: ignore[assignment,operator]
        if i + 1 < len(plans):
            x = nn.functional.relu(x)
    return x


def _csr(positions: Tensor, values: Tensor, rows: int, columns: int) -> Tensor:
    """Build torch's CSR matrix of the entries at `positions` (in any order)."""
    order = positions.argsort()
    positions = positions[order]
    starts = torch.searchsorted(positions, torch.arange(rows + 1, device=positions.device) * columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            starts, positions % columns, values[order], (rows, columns), device=values.device, check_invariants=False
        )


class _TorchCsr(torch.autograd.Function):
    """y = x Wᵀ with W in torch's CSR format, which multiplies feature-major activations fastest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, plan: LayerPlan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(x, values)
        return (_csr(plan.positions, values.detach(), plan.rows, plan.columns) @ x.t()).t().contiguous()

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        plan: LayerPlan = ctx.plan
        x, values = ctx.saved_tensors
        dy = grads[0]
        dx = dv = None
        if ctx.needs_input_grad[0]:
            turned = plan.positions % plan.columns * plan.rows + plan.positions // plan.columns
            dx = (_csr(turned, values, plan.columns, plan.rows) @ dy.t()).t()
        if ctx.needs_input_grad[1]:
            dv = plan.gather(dy.t() @ x)
        return dx, dv, None
