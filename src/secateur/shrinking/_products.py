"""Numbers that are not known, written as NaN; their products with known ones, and what these sum over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.coupling import Op

__all__ = ["CARRIES", "RULES", "Read", "is_unknown", "unknown_like"]

_NAMES = (
    "view reshape _unsafe_view flatten unflatten t transpose permute movedim unsqueeze squeeze expand expand_as repeat "
    "slice select unbind chunk split split_with_sizes unsafe_split unsafe_chunk cat stack flip roll constant_pad_nd "
    "clone contiguous to _to_copy detach alias dropout feature_dropout max_pool2d avg_pool2d max_pool1d avg_pool1d "
    "max_pool2d_with_indices adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool1d mean sum var amax amin "
    "softmax log_softmax layer_norm rms_norm group_norm pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle copy masked_fill mT numpy_T relu6 hardtanh prelu upsample_nearest2d upsample_bilinear2d "
    "zeros_like ones_like empty_like full_like new_zeros new_ones zeros ones"
)
#: Operations that carry NaN to what depends on it, beside the pointwise ones.
CARRIES = frozenset(_NAMES.split())


def is_unknown(tensor: Tensor) -> bool:
    """Whether anything of a tensor is unknown."""
    return tensor.is_floating_point() and bool(tensor.isnan().any())


def unknown_like(leaf: Any) -> Any:
    """Return an input of which nothing is known; integers stay, whoever runs them taints them."""
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return torch.full_like(leaf, torch.nan, dtype=torch.float64)
    return leaf


def bilinear(op: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    """Return op(x, w) where it is known: unknown is where an unknown meets what is not zero, or is unknown itself."""
    no_x, no_w = x.isnan(), w.isnan()
    y = op(x.nan_to_num(0.0), w.nan_to_num(0.0))
    spoiled = op(no_x.to(y), (no_w | (w != 0)).to(y))
    if bool(no_w.any()):
        spoiled = spoiled + op((x != 0).to(y), no_w.to(y))  # NaN != 0 holds
    return y.masked_fill(spoiled > 0.5, torch.nan)


@dataclass(frozen=True, eq=False)
class Read:
    """What one contraction sums over.

    Attributes:
        tensor: the argument.
        dim: its dimension.
        carries: which indices bring something to the sum.
        known: which of them are the same for every input.
        weight: the name of the weight that reads them, where its layer can take a constant into its bias.
        fold: index → what a constant there adds to the outputs; None where that is not one number for each.
    """

    tensor: Tensor
    dim: int
    carries: Tensor
    known: Tensor
    weight: str | None = None
    fold: Callable[[int], Tensor | None] | None = None


#: The result, or None where another rule has to compute it; and what was read.
Computed = tuple[Any, list[Read]]
Rule = Callable[[Op, Any, tuple[Any, ...], dict[str, Any]], Computed]
RULES: dict[str, Rule] = {}


def _rule(names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return add


def _read(
    x: Tensor,
    other: Tensor,
    dim: int,
    weight: str | None = None,
    fold: Callable[[int], Tensor | None] | None = None,
) -> Read:
    """`x` is summed over `dim`; an index is harmless where it is always 0 there, or the `other` factor is."""
    rest = tuple(d for d in range(x.ndim) if d != dim % x.ndim)
    carries = (x != 0).any(dim=rest) if rest else x != 0
    known = ~(x.isnan().any(dim=rest) if rest else x.isnan())
    return Read(x, dim, (carries & other).cpu(), known.cpu(), weight, fold)


def _name(op: Op, tensor: Tensor) -> str | None:
    return op.book.name_of(tensor)


@_rule("linear")
def linear(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """A constant adds its column, the same for all rows of the input."""
    x, weight, bias = op.tensor("input"), op.tensor("weight"), op["bias"]
    flat = x.flatten(0, -2) if x.ndim > 1 else x[None]

    def fold(k: int) -> Tensor | None:
        return weight[:, k] * flat[0, k] if bool((flat[:, k] == flat[0, k]).all()) else None

    y = bilinear(torch.nn.functional.linear, x, weight)
    return y if bias is None else y + bias, [_read(x, (weight != 0).any(0), -1, _name(op, weight), fold)]


@_rule("convolution")
def convolution(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """A constant adds a map, which is a number where no border is padded."""
    x, weight, bias, *rest = args
    transposed, groups = op["transposed"], op["groups"]

    def run(a: Tensor, b: Tensor) -> Tensor:
        return func(a, b, None, *rest)

    def fold(k: int) -> Tensor | None:
        alone = torch.zeros_like(x[:1])
        alone[:, k] = x[:1, k]
        y = run(alone, weight)[0].flatten(1)
        flat = bool((y - y[:, :1]).abs().max() <= 1e-14 * y.abs().max())
        return y[:, 0] if groups == 1 and flat else None

    reads = []
    if groups == 1 or weight.shape[0 if transposed else 1] > 1:  # depthwise sums over nothing
        live = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        if groups == 1:
            live = (weight if transposed else weight.transpose(0, 1)).flatten(1).ne(0).any(1)
        reads.append(_read(x, live, 1, _name(op, weight), fold))
    y = bilinear(run, x, weight)
    return y if bias is None else y + bias.view(1, -1, *[1] * (y.ndim - 2)), reads


@_rule("matmul mm bmm")
def matmul(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """Either side may be unknown."""
    x, y = args[:2]
    if min(x.ndim, y.ndim) < 2:
        return None, []
    reads = []
    for one, dim, other, summed in ((x, -1, y, -2), (y, -2, x, -1)):
        rest = tuple(k for k in range(other.ndim) if k != other.ndim + summed)
        reads.append(_read(one, (other != 0).any(dim=rest), dim))
    return bilinear(torch.matmul, x, y), reads


@_rule("addmm")
def addmm(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """A linear layer that keeps its weight inputs first."""
    added, x, y = args[:3]
    if any(kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None, []
    reads = [_read(x, (y != 0).any(1), -1), _read(y, (x != 0).any(0), -2)]
    return bilinear(torch.mm, x, y) + added, reads


@_rule("mul mul_")
def mul(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """0 times unknown is 0."""
    x, y = args
    if not isinstance(y, Tensor) or not y.is_floating_point() or not x.is_floating_point():
        return None, []
    if not (is_unknown(x) or is_unknown(y)):
        return None, []
    out = bilinear(torch.mul, *torch.broadcast_tensors(x, y))
    return (x.copy_(out) if op.name == "mul_" else out), []


@_rule("batch_norm")
def batch_norm(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """With the statistics of evaluation; a scale of 0 leaves the shift."""
    x, scale, shift, mean, var, _, _, epsilon, _ = args
    if mean is None:
        return None, []
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + epsilon)
    y = y if scale is None else bilinear(torch.mul, y, scale.view(shape).expand_as(y))
    return y if shift is None else y + shift.view(shape), []


@_rule("scaled_dot_product_attention")
def attention(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """Weights are unknown but where the mask makes them 0; a value that is 0 everywhere stays 0."""
    q, k, v = args[:3]
    if op["enable_gqa"] or not any(is_unknown(t) for t in (q, k, v)):
        return None, []
    each = torch.eye(v.shape[-2]).to(q).expand(*k.shape[:-1], v.shape[-2])
    weights = func(q.nan_to_num(0.0), k.nan_to_num(0.0), each, *args[3:], **kwargs)
    weights = torch.where(weights == 0, weights, torch.nan)
    return bilinear(torch.matmul, weights, v), []


@_rule("lstm gru rnn_tanh rnn_relu")
def recurrent(op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Computed:
    """A unit starts at 0 and stays there where the rows that write it are 0: of the cell, of the GRU's new value."""
    if op["data"] is not None:
        return None, []
    x, params = op.tensor("input"), op["params"]
    states = list(op["hx"]) if isinstance(op["hx"], list | tuple) else [op["hx"]]
    ways, per = 2 if op["bidirectional"] else 1, 4 if op["has_biases"] else 2
    count = op["num_layers"] * ways
    if len(params) != per * count or any(is_unknown(state) for state in states):  # projections
        return None, []
    outs = func(x.nan_to_num(0.0), *args[1:], **kwargs)
    below, reads, tops = (x != 0).flatten(0, -2).any(0), [], []
    for k in range(count):
        own = params[k * per : (k + 1) * per]
        live = _writes(op.name, own) | torch.stack([(state[k] != 0).any(0) for state in states]).any(0)
        for weight, carry in ((own[0], below), (own[1], live)):
            reads.append(Read(weight, 1, (carry & (weight != 0).any(0)).cpu(), (~carry).cpu()))
        tops = [live] if k % ways == 0 else [*tops, live]
        below = torch.cat(tops) if len(tops) == ways else below
    outs[0].copy_(torch.where(below, torch.nan, 0.0).expand_as(outs[0]))
    for out in outs[1:]:
        out.fill_(torch.nan)
    return outs, reads


def _writes(name: str, params: list[Tensor]) -> Tensor:
    """Which units are written to."""
    gates, writer = {"lstm": (4, 2), "gru": (3, 2)}.get(name, (1, 0))
    blocks = [p.chunk(gates)[writer].reshape(p.shape[0] // gates, -1) for p in params]
    return torch.stack([block.ne(0).any(1) for block in blocks]).any(0)
