"""LSTM, GRU and RNN layers, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule

_GATES = {"lstm": 4, "gru": 3}


@rule("lstm gru rnn_tanh rnn_relu")
def recurrent(op: Op) -> list[list[Row]]:
    """Give all layers and directions one hidden width, as the module has it; the gates are united block by block."""
    packed = op["data"] is not None
    x = op.rows("data" if packed else "input")
    states = list(op["hx"]) if isinstance(op["hx"], list | tuple) else [op["hx"]]
    ways = 2 if op["bidirectional"] else 1
    projected = len(states) == 2 and states[0].shape[-1] != states[1].shape[-1]
    shown, hidden = op.rows(states[0])[-1], op.rows(states[-1])[-1]
    per = (4 if op["has_biases"] else 2) + projected
    below = x[-1]
    for layer in range(op["num_layers"]):
        for way in range(ways):
            first = (layer * ways + way) * per
            _cell(op, op["params"][first : first + per], below, shown, hidden, projected)
        below = None if shown is None else np.concatenate([shown] * ways)
    _widths(op, shown, hidden, projected)
    for ids in x[:-1]:
        op.freeze(ids, "it runs along it")
    rows = [[None] if packed else [None] * (len(x) - 1), *(op.rows(state)[:-1] for state in states)]
    last = [below, *(op.rows(state)[-1] for state in states)]
    return [[*lead, ids] for lead, ids in zip(rows, last, strict=True)]


def _cell(op: Op, params: Sequence[Tensor], below: Row, shown: Row, hidden: Row, projected: bool) -> None:
    """One layer in one direction: weights of the input, of the state, biases, a projection."""
    op.same(params[0], 1, below, reads=True)
    op.same(params[1], 1, shown, reads=True)
    for tensor in params[: len(params) - projected]:
        ids = op.rows(tensor)[0]
        op.take(ids)
        op.book.role(tensor, 0, reads=False)
        for block in np.split(ids, _GATES.get(op.name, 1)) if ids is not None else ():
            op.meet(hidden, block)
    if projected:
        op.same(params[-1], 0, shown)
        op.same(params[-1], 1, hidden, reads=True)


def _widths(op: Op, shown: Row, hidden: Row, projected: bool) -> None:
    op.attribute("hidden_size", hidden)
    if projected:
        op.attribute("proj_size", shown)
    else:
        op.meet(shown, hidden)


@rule("_pack_padded_sequence _pad_packed_sequence")
def packing(op: Op) -> list[list[Row]]:
    """Features pass on; what is batch and what is time changes places, and stays."""
    rows = op.rows(op.tensor("input", "data"))
    for ids in rows[:-1]:
        op.freeze(ids, "is packed by lengths")
    packed, lengths = op.outs()
    return [[*[None] * (packed.ndim - 1), rows[-1]], [None] * lengths.ndim]
