"""Normalisations: what is averaged over stays, unless the average can be made right again."""

from __future__ import annotations

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule

_AVERAGED = "is averaged over"


def _channels(op: Op, x: list[Row]) -> Row:
    """What is kept of each channel has the channels' labels."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = op[name]
        if tensor is not None and tensor.numel() > 1:
            op.same(tensor, 0, x[1])
    return x[1]


@rule("batch_norm instance_norm")
def batch_norm(op: Op) -> list[Row]:
    """Each channel by itself. All dimensions that are averaged stay: standardised weights come this way too."""
    x = op.rows("input")
    _channels(op, x)
    for ids in [*x[2:], *(x[:1] if op.name == "batch_norm" else ())]:
        op.freeze(ids, _AVERAGED)
    return x


@rule("group_norm")
def group_norm(op: Op) -> list[Row]:
    """Channels are (group, place): whole groups may go, a part of one may not."""
    x, groups, count = op.rows("input"), op["num_groups"], op.tensor("input").shape[1]
    ids = _channels(op, x)
    group, inner = op.regroup([(count, ids)], [groups, count // groups])
    op.freeze(inner, _AVERAGED)
    for row in x[2:]:
        op.freeze(row, _AVERAGED)
    if groups > 1:
        op.attribute("num_groups", group)
    return x


@rule("layer_norm rms_norm")
def layer_norm(op: Op) -> list[Row]:
    """The last dimensions are averaged over; a root mean square of one dimension is made right by its weight and ε."""
    rows, rank = op.rows("input"), len(op["normalized_shape"])
    for k in range(1, rank + 1):
        for name in ("weight", "bias"):
            op.same(op[name], -k, rows[-k])
        if op.name == "rms_norm" and rank == 1 and op.rescale(rows[-1]):
            continue
        if not (op.name == "layer_norm" and rank == 1 and op.waive(rows[-1], "layer_norm")):
            op.freeze(rows[-k], _AVERAGED)
    return rows


@rule("prelu _prelu_kernel")
def prelu(op: Op) -> list[Row]:
    """One slope for all, or one for each channel."""
    x = op.rows("self")
    weight = op.tensor("weight")
    if weight.numel() > 1:
        op.same(weight, 1 if weight.ndim > 1 else 0, x[1])
    return x
