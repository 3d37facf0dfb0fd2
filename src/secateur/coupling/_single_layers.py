"""Stacked and bidirectional recurrent layers as single ones, each with a width of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError

__all__ = ["SingleLayers", "single_layers"]

_KINDS = (nn.LSTM, nn.GRU, nn.RNN)
_TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class SingleLayers(nn.Module):
    """What a stacked or bidirectional recurrent layer computes, by single layers in one direction.

    Called as the layer is. It returns the same, but for the last states: these are tuples with a tensor for each layer
    and direction, [sample, hidden], since their widths need not be equal: `h[-1]` is that of the last layer, as before.

    Args:
        stacked: an `nn.LSTM`, `nn.GRU` or `nn.RNN`, whose parameters it takes.

    Shape: as the layer's; of an initial state, [layer × direction, sample, hidden] or a tuple as it returns.
    """

    def __init__(self, stacked: nn.RNNBase) -> None:
        super().__init__()
        self.num_layers, self.bidirectional = stacked.num_layers, stacked.bidirectional
        self.batch_first, self.dropout = stacked.batch_first, stacked.dropout
        self.has_cells = isinstance(stacked, nn.LSTM)
        ways = 2 if stacked.bidirectional else 1
        self.cells = nn.ModuleList(
            _single(stacked, layer, way, ways) for layer in range(stacked.num_layers) for way in range(ways)
        )
        self.train(stacked.training)

    def forward(self, x: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run the layers, each on what the one below gives out."""
        packed, ways = isinstance(x, PackedSequence), 2 if self.bidirectional else 1
        if packed and self.bidirectional:
            raise SecateurError(
                "Packed sequences run both ways in one layer of torch alone: pad them, or leave the layer whole."
            )
        ends: list[Any] = []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = self._dropped(x)
            outs = []
            for way in range(ways):
                k = layer * ways + way
                out, end = self.cells[k](self._turned(x, way), self._begin(hx, k))
                outs.append(out if packed else self._turned(out, way))
                ends.append(end)
            x = outs[0] if ways == 1 else torch.cat(outs, -1)
        if self.has_cells:
            return x, (tuple(h[0] for h, _ in ends), tuple(c[0] for _, c in ends))
        return x, tuple(h[0] for h in ends)

    def _begin(self, hx: Any, k: int) -> Any:
        if hx is None:
            return None
        return tuple(each[k][None] for each in hx) if self.has_cells else hx[k][None]

    def _turned(self, x: Any, way: int) -> Any:
        if not way:
            return x
        return x.flip(1 if self.batch_first and x.ndim == 3 else 0)

    def _dropped(self, x: Any) -> Any:
        if isinstance(x, PackedSequence):
            return x._replace(data=F.dropout(x.data, self.dropout))
        return F.dropout(x, self.dropout)


def _single(stacked: nn.RNNBase, layer: int, way: int, ways: int) -> nn.RNNBase:
    """One layer in one direction, with the parameters that the stack had for it."""
    width = stacked.proj_size or stacked.hidden_size
    more: dict[str, Any] = {"nonlinearity": stacked.nonlinearity} if isinstance(stacked, nn.RNN) else {}
    more |= {"proj_size": stacked.proj_size} if stacked.proj_size else {}
    first = next(stacked.parameters())
    kind = next(each for each in _KINDS if isinstance(stacked, each))
    cell = kind(
        width * ways if layer else stacked.input_size,
        stacked.hidden_size,
        bias=stacked.bias,
        batch_first=stacked.batch_first,
        device="meta",
        dtype=first.dtype,
        **more,
    )
    for name in _TENSORS:
        if hasattr(cell, f"{name}_l0"):
            setattr(cell, f"{name}_l0", getattr(stacked, f"{name}_l{layer}{'_reverse' if way else ''}"))
    return cell.train(stacked.training)


def single_layers(model: nn.Module, only: Sequence[str] | None = None) -> nn.Module:
    """Return a copy of a model whose stacked and bidirectional recurrent layers are single ones (`SingleLayers`).

    It computes the same, and `shrink` may leave another number of hidden units in each layer and direction of it; of a
    stack, torch has one width for all, so that a unit goes in all of them or stays. Code that indexes the last states
    (`h[-1]`, `h[-2:]`) goes on as it is; code that wants them as one tensor stacks them, which makes their widths equal
    again. A shrunk one opens in `single_layers(make())`.

    Args:
        model: the model; it stays as it is.
        only: paths of the layers; None takes all.

    Raises:
        SecateurError: there is none, or a path is not one of them.

    >>> net = nn.Sequential(nn.LSTM(4, 8, num_layers=2, batch_first=True))
    >>> [cell.hidden_size for cell in single_layers(net)[0].cells]
    [8, 8]
    """
    require_model(model, "coupling.single_layers(model)")
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _KINDS) and (module.num_layers > 1 or module.bidirectional)
    }
    for path in found if only is None else only:
        if path not in found:
            raise SecateurError(
                f"`only`: {path!r} is no stacked or bidirectional recurrent layer. There are: {', '.join(found)}."
            )
    if not found:
        raise SecateurError(f"{type(model).__name__} has no stacked or bidirectional recurrent layer to take apart.")
    twin = copy.deepcopy(model)
    for path in found if only is None else only:
        stacked = twin.get_submodule(path)
        assert isinstance(stacked, nn.RNNBase)
        if not path:
            return SingleLayers(stacked)
        parent, _, last = path.rpartition(".")
        setattr(twin.get_submodule(parent), last, SingleLayers(stacked))
    return twin
