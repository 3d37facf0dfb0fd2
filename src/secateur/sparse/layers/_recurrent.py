"""SparseLSTM and SparseGRU: recurrent layers whose only weights are those that survived."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from secateur.sparse.calls._recurrent import Pass, fits_recurrent, run_direction
from secateur.sparse.layers._state import DenseState, take_survivors
from secateur.sparse.plans._recurrent import RecurrentPlan

__all__ = ["RecurrentOptions", "SparseGRU", "SparseLSTM", "SparseRecurrent"]

State = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RecurrentOptions:
    """The options of an `nn.LSTM` or `nn.GRU`, under torch's names."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return torch's name of each layer and direction: l0, l0_reverse, l1, …"""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return tuple(f"l{layer}{end}" for layer in range(self.num_layers) for end in ends)


class SparseRecurrent(DenseState):
    """What SparseLSTM and SparseGRU share; the equations are those of `nn.LSTM` and `nn.GRU`.

    The parameters are `values_ih_l0` [kept], `values_hh_l0` [kept], … and torch's biases; a bias that was a
    buffer or is pruned away whole is a constant. `state_dict` gives and takes ordinary dense `weight_ih_l0`, …
    instead. 32-bit floats on the CPU run in the sparse kernels, one call for each layer and direction; other
    types and devices, and empty batches, run as the dense layer with the same weights.

    Dropout between layers is torch's own, on the tensors between the calls: with the same random state it drops
    what the dense layer drops.

    Args:
        options: sizes and switches.
        plans: where the surviving weights are, one per entry of `options.suffixes`.
        tensors: values and biases by name.
        constants: names of biases that are no parameters.
        pruned: names of those constants that were parameters, and are zero because their mask keeps nothing.
        compute_dense: multiply densely although the weights are stored sparsely; right above the break-even
            density.
    """

    gru = False

    def __init__(
        self,
        options: RecurrentOptions,
        plans: tuple[RecurrentPlan, ...],
        tensors: Mapping[str, Tensor],
        *,
        constants: frozenset[str] = frozenset(),
        pruned: frozenset[str] = frozenset(),
        compute_dense: bool = False,
    ) -> None:
        super().__init__()
        self.options, self.plans, self.compute_dense, self.pruned = options, plans, compute_dense, pruned
        for name, tensor in tensors.items():
            if name in constants:
                self.register_buffer(name, tensor.detach())
            else:
                self.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad))

    @property
    def batch_first(self) -> bool:
        """Whether inputs and outputs are [batch, time, feature]."""
        return self.options.batch_first

    @property
    def hidden_size(self) -> int:
        """Number of units."""
        return self.options.hidden_size

    @property
    def input_size(self) -> int:
        """Number of input features."""
        return self.options.input_size

    @property
    def num_layers(self) -> int:
        """Number of stacked layers."""
        return self.options.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether each layer also runs from the last step to the first."""
        return self.options.bidirectional

    def flatten_parameters(self) -> None:
        """Do nothing: code written for torch's layers calls it before they run."""

    @property
    def density(self) -> float:
        """The fraction of all weights kept, in [0, 1]."""
        return sum(p.kept for p in self.plans) / sum(p.rows * (p.inputs + p.units) for p in self.plans)

    @property
    def runs_sparse(self) -> bool:
        """Whether the sparse kernels are to be used (dense is chosen above the break-even density)."""
        return not self.compute_dense

    def direction(self, index: int) -> tuple[Tensor | None, ...]:
        """Return values of W_ih and W_hh, b_ih and b_hh of one layer and direction."""
        suffix = self.options.suffixes[index]
        return tuple(getattr(self, f"{n}_{suffix}", None) for n in ("values_ih", "values_hh", "bias_ih", "bias_hh"))

    def dense_weights(self) -> list[Tensor]:
        """Return the flat list of dense tensors that torch's own functions take. Differentiable."""
        found: list[Tensor] = []
        for index, plan in enumerate(self.plans):
            values_ih, values_hh, *biases = self.direction(index)
            assert values_ih is not None and values_hh is not None
            found += [plan.scatter(values_ih, state=False), plan.scatter(values_hh, state=True)]
            found += [bias for bias in biases if bias is not None]
        return found

    def forward(self, input: Tensor | PackedSequence, hx: State | None = None) -> tuple[Tensor, State]:
        """Run the sequence: input [time, batch, feature] (or batch first, or without a batch) → outputs, last state.

        Raises:
            TypeError: a PackedSequence. Its sequences end at different steps; the kernels run all samples
                through all steps.
            ValueError: an input or a first state of the wrong shape.
        """
        if isinstance(input, PackedSequence):
            raise TypeError(
                f"{type(self).__name__} does not take a PackedSequence: its kernels run every sample through every "
                "step. Pad the batch (pad_packed_sequence), or use secateur.densify(model)."
            )
        batched = input.dim() == 3
        states = self._states(input, hx)
        if not batched:
            input = input.unsqueeze(1)
            states = tuple(None if s is None else s.unsqueeze(1) for s in states)
        elif self.batch_first:
            input = input.transpose(0, 1)
        out, last = self._run(input, states)
        if not batched:
            out, last = out.squeeze(1), tuple(s.squeeze(1) for s in last)
        elif self.batch_first:
            out = out.transpose(0, 1)
        return out, last[0] if self.gru else (last[0], last[1])

    def _states(self, x: Tensor, hx: State | None) -> tuple[Tensor | None, ...]:
        if (
            x.dim() not in (2, 3)
            or x.shape[-1] != self.input_size
            or x.shape[0 if x.dim() == 2 else self.batch_first] < 1
        ):
            order = "[batch, time, feature]" if self.batch_first else "[time, batch, feature]"
            raise ValueError(
                f"the input of {type(self).__name__} must be {order} with {self.input_size} features and at least "
                f"one step, got the shape {tuple(x.shape)}"
            )
        states = (None, None) if hx is None else (hx, None) if isinstance(hx, Tensor) else tuple(hx)
        if hx is not None and isinstance(hx, Tensor) != self.gru:
            raise ValueError("`hx` must be a tensor for a GRU and a pair (h, c) for an LSTM")
        batch = (x.shape[1 - self.batch_first],) if x.dim() == 3 else ()
        shape = (len(self.plans), *batch, self.hidden_size)
        for state in states:
            if state is not None and tuple(state.shape) != shape:
                raise ValueError(f"`hx` must have the shape {shape}, got {tuple(state.shape)}")
        return states

    def _run(self, x: Tensor, states: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run [time, batch, feature] through all layers."""
        tensors = [t for index in range(len(self.plans)) for t in self.direction(index)]
        if self.compute_dense or not fits_recurrent(x, *states, *tensors):
            return self._dense(x, states, warn=not self.compute_dense)
        directions = 2 if self.options.bidirectional else 1
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(self.options.num_layers):
            if layer and self.training and self.options.dropout:
                x = nn.functional.dropout(x, self.options.dropout)
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                # Only the output that the caller sees is laid out as he likes.
                order = self.batch_first and layer + 1 == self.options.num_layers
                how = Pass(self.plans[index], reverse=index % directions == 1, batch_first=order)
                first = tuple(None if s is None else s[index] for s in states)
                out, h, c = run_direction(x, (first[0], first[1]), how, self.direction(index))
                outputs.append(out)
                last.append((h, c))
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        return x, tuple(torch.stack(kind) for kind in list(zip(*last, strict=True))[: 1 if self.gru else 2])

    def _dense(self, x: Tensor, states: tuple[Tensor | None, ...], *, warn: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = self.direction(0)[0]
        assert values is not None
        if warn and x.numel() and (x.dtype is not torch.float32 or x.device.type != "cpu"):
            kind = f"{x.dtype} on {x.device.type}".removeprefix("torch.")
            warnings.warn(
                f"{type(self).__name__} computes densely: its kernels take float32 on cpu, got {kind}. "
                "Use secateur.densify(model) there.",
                stacklevel=6,
            )
        zeros = x.new_zeros(len(self.plans), x.shape[1], self.hidden_size)
        full = [zeros if s is None else s for s in states]
        o = self.options
        rest = (o.bias, o.num_layers, o.dropout, self.training, o.bidirectional, False)
        weights = [w.contiguous() for w in self.dense_weights()]
        if self.gru:
            out, h = torch._VF.gru(x, full[0], weights, *rest)  # type: ignore[attr-defined]
            return out, (h,)
        out, h, c = torch._VF.lstm(x, full, weights, *rest)  # type: ignore[attr-defined]
        return out, (h, c)

    def dense_state(self) -> dict[str, Tensor]:
        """Return torch's own weights and biases, `weight_ih_l0`, …"""
        return dict(zip(_dense_names(self.options), self.dense_weights(), strict=True))

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight or a bias in, or say why not."""
        kind, which, suffix = name.split("_", 2)
        if kind == "weight":
            values = self.plans[self.options.suffixes.index(suffix)].gather(found, state=which == "hh")
            return take_survivors(getattr(self, f"values_{which}_{suffix}"), values, found)
        if name in self.pruned and bool(found.any()):
            return "is not zero, but this layer's mask prunes it whole; apply the masks first"
        getattr(self, name).copy_(found)
        return None

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        o = self.options
        how = ", computed densely" if self.compute_dense else ""
        more = f", num_layers={o.num_layers}" if o.num_layers > 1 else ""
        more += ", bidirectional=True" if o.bidirectional else ""
        return f"{o.input_size}, {o.hidden_size}{more}, batch_first={o.batch_first}, density={self.density:.4g}{how}"


class SparseLSTM(SparseRecurrent):
    """An `nn.LSTM` that stores, computes and trains its surviving weights only. Made by `sparsify`."""


class SparseGRU(SparseRecurrent):
    """An `nn.GRU` that stores, computes and trains its surviving weights only. Made by `sparsify`."""

    gru = True


def _dense_names(options: RecurrentOptions) -> list[str]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if options.bias else ("weight_ih", "weight_hh")
    return [f"{kind}_{suffix}" for suffix in options.suffixes for kind in kinds]
