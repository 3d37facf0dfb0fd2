"""Attention in one operation."""

from __future__ import annotations

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule


@rule("scaled_dot_product_attention")
def attention(op: Op) -> list[Row]:
    """softmax(q k^T · scale) v. The width of q and k is free where the scale is given, or can be made up for.

    Where the scale is 1/√width, `Queries` says at the end of the trace whether one layer alone makes the queries, so
    that √(d'/d) may go into its weights; else the width stays. With `enable_gqa` each key head serves several query
    heads: (kv, repeat).
    """
    q, k, v = (op.rows(name) for name in ("query", "key", "value"))
    op.meet(q[-1], k[-1])
    if op["scale"] is None and not op.waive(q[-1], "attention_scale"):
        op.take(q[-1])
    for ids in (q[-2], k[-2], v[-2]):
        op.freeze(ids, "positions are summed over")
    lead = _heads(op, q, k, v)
    op.book.lead(lead)
    mask = op["attn_mask"]
    if mask is not None:
        rows = op.rows("attn_mask")
        for d in range(-mask.ndim, 0):
            here = ([*lead, q[-2], k[-2]])[d]
            if mask.shape[d] > 1:
                op.meet(here, rows[d])
    return [*lead, q[-2], v[-1]]


def _heads(op: Op, q: list[Row], k: list[Row], v: list[Row]) -> list[Row]:
    lead: list[Row] = []
    query, key, value = (op.tensor(name) for name in ("query", "key", "value"))
    for d in range(-query.ndim, -2):
        n = query.shape[d]
        ids = q[d]
        for other, rows in ((key, k), (value, v)):
            if d < -other.ndim or other.shape[d] == 1:
                continue
            if op["enable_gqa"] and d == -3 and other.shape[d] < n:
                groups, _ = op.regroup([(n, ids)], [other.shape[d], n // other.shape[d]])
                op.meet(groups, rows[d])
            else:
                ids = op.meet(ids, rows[d])
        lead.append(ids)
    return lead
