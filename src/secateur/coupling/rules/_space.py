"""Pooling, interpolation, and what turns channels into space or shuffles them."""

from __future__ import annotations

import numpy as np
import torch

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import Rule, rule

_MOVES = "it moves over it"


def _over(rank: int) -> Rule:
    """The rule of an operation that moves over the last `rank` dimensions."""

    def moves(op: Op) -> list[Row] | list[list[Row]]:
        rows = op.rows(op.tensor("self", "input"))
        for d in range(len(rows) - rank, len(rows)):
            op.freeze(rows[d], _MOVES)
            rows[d] = None
        return rows if isinstance(op.out, torch.Tensor) else op.several(rows)

    return moves


_POOLS = "max_pool avg_pool adaptive_avg_pool adaptive_max_pool _adaptive_avg_pool lp_pool"
_SCALES = (
    "upsample_nearest upsample_linear upsample_bilinear upsample_bicubic upsample_trilinear _upsample_nearest_exact"
)
for _n in (1, 2, 3):
    rule(" ".join(f"{name}{_n}d {name}{_n}d_with_indices" for name in _POOLS.split()))(_over(_n))
    rule(" ".join(f"{name}{_n}d _{name}{_n}d_aa" for name in _SCALES.split()))(_over(_n))


@rule("pixel_shuffle pixel_unshuffle")
def pixel_shuffle(op: Op) -> list[Row]:
    """Channels are (channel, place): places become space and stay, channels may go."""
    x, rows = op.tensor("self"), op.rows("self")
    if op.name == "pixel_shuffle":
        made = op.outs()[0].shape[-3]
        channels, inner = op.regroup([(x.shape[-3], rows[-3])], [made, op["upscale_factor"] ** 2])
        op.freeze(inner, "becomes space")
    else:
        places = op["downscale_factor"] ** 2
        (channels,) = op.regroup([(x.shape[-3], rows[-3]), (places, None)], [op.outs()[0].shape[-3]])
    for ids in rows[-2:]:
        op.freeze(ids, _MOVES)
    return [*rows[:-3], channels, None, None]


@rule("channel_shuffle native_channel_shuffle")
def channel_shuffle(op: Op) -> list[Row]:
    """(group, place) becomes (place, group)."""
    rows, groups, count = op.rows("self"), op["groups"], op.outs()[0].shape[1]
    outer, inner = op.regroup([(count, rows[1])], [groups, count // groups])
    op.attribute("groups", outer)
    (turned,) = op.regroup([(count // groups, inner), (groups, outer)], [count])
    return [rows[0], turned, *rows[2:]]


@rule("glu")
def glu(op: Op) -> list[Row]:
    """Half of a dimension gates the other half, place by place."""
    rows, dim = op.rows("self"), op["dim"] if op["dim"] is not None else -1
    ids = rows[dim]
    if ids is not None:
        op.take(ids)
        half, gate = np.split(ids, 2)
        op.meet(half, gate)
        rows[dim] = half
    return rows
