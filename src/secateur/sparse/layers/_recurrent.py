"""SparseLSTM and SparseGRU: recurrent layers whose only weights are those that survived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from secateur._base import door
from secateur.sparse.calls import Pass, autocast_to, fits, in_float32, refuse_lookers, run_direction
from secateur.sparse.layers._state import DenseState, take_survivors
from secateur.sparse.plans import RecurrentPlan, plan_recurrent

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

    def names(self, suffix: str) -> list[str]:
        """Return torch's names of the weights, and of the biases if there are any, of one layer and direction."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [f"{kind}_{suffix}" for kind in kinds[: 4 if self.bias else 2]]


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
        tensors: values and biases by name; those that are no parameters are constants.
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
        pruned: frozenset[str] = frozenset(),
        compute_dense: bool = False,
    ) -> None:
        super().__init__()
        self.options, self.plans, self.compute_dense, self.pruned = options, plans, compute_dense, pruned
        # Under torch's names, for code written for torch's layers.
        self.input_size, self.hidden_size, self.num_layers = options.input_size, options.hidden_size, options.num_layers
        self.batch_first, self.bidirectional = options.batch_first, options.bidirectional
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def flatten_parameters(self) -> None:
        """Do nothing: code written for torch's layers calls it before they run."""

    @property
    def density(self) -> float:
        """The fraction of all weights kept, in [0, 1]."""
        return sum(p.kept for p in self.plans) / sum(p.rows * (p.inputs + p.units) for p in self.plans)

    def direction(self, index: int) -> tuple[Tensor | None, ...]:
        """Return values of W_ih and W_hh, b_ih and b_hh of one layer and direction."""
        suffix = self.options.suffixes[index]
        return tuple(getattr(self, f"{n}_{suffix}", None) for n in ("values_ih", "values_hh", "bias_ih", "bias_hh"))

    def forward(self, input: Tensor | PackedSequence, hx: State | None = None) -> tuple[Tensor, State]:
        """Run the sequence: input [time, batch, feature] (or batch first, or without a batch) → outputs, last state.

        Raises:
            TypeError: a PackedSequence. Its sequences end at different steps; the kernels run all samples
                through all steps.
            ValueError: an input or a first state of the wrong shape.
        """
        refuse_lookers(input)
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
        wanted = autocast_to(x)
        if wanted is not None and not self.compute_dense and door.native is not None:
            return self._reduced(x, states, x.dtype if self.gru else wanted)
        if self.compute_dense or door.native is None or not fits(x, *states, *tensors):
            if not self.compute_dense and x.numel() and (x.dtype is not torch.float32 or not x.is_cpu):
                self._warn_dense(x, next(t for t in tensors if t is not None), stacklevel=5)
            return self._dense(x, states)
        sparsely, densely = partial(self._sparsely, states=states), partial(self._dense, states=states)
        slower = self._apart_is_faster("layer", x, sparsely, densely, (self,))
        return densely(x) if slower else sparsely(x)

    def _reduced(self, x: Tensor, states: tuple[Tensor | None, ...], dtype: torch.dtype) -> Any:
        """Run under autocast, with the types that torch gives there: through the kernels in float32, or densely."""
        full = tuple(None if s is None else s.float() for s in states)
        sparsely: Any = in_float32(partial(self._sparsely, states=full), dtype)
        ways = (sparsely, partial(self._dense, states=states))
        with torch.autocast("cpu", enabled=False):
            tensors = [t for index in range(len(self.plans)) for t in self.direction(index)]
            ways = ways if fits(x.float(), *full, *tensors) else ways[1:]
        return ways[self._fastest(("layer", dtype), x, ways, (self,))](x)

    def _sparsely(self, x: Tensor, states: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        directions = 2 if self.bidirectional else 1
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(self.num_layers):
            if layer and self.training and self.options.dropout:
                x = nn.functional.dropout(x, self.options.dropout)
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                # Only the output that the caller sees is laid out as he likes.
                order = self.batch_first and layer + 1 == self.num_layers
                how = Pass(self.plans[index], reverse=index % directions == 1, batch_first=order)
                first = tuple(None if s is None else s[index] for s in states)
                out, h, c = run_direction(x, (first[0], first[1]), how, self.direction(index))
                outputs.append(out)
                last.append((h, c))
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        return x, tuple(torch.stack(kind) for kind in list(zip(*last, strict=True))[: 1 if self.gru else 2])

    def _dense(self, x: Tensor, states: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        zeros = x.new_zeros(len(self.plans), x.shape[1], self.hidden_size)
        full = [zeros if s is None else s for s in states]
        o = self.options
        rest = (o.bias, o.num_layers, o.dropout, self.training, o.bidirectional, False)
        weights = [w.contiguous() for w in self.multiplied()]
        if self.gru:
            out, h = torch._VF.gru(x, full[0], weights, *rest)  # type: ignore[attr-defined]
            return out, (h,)
        out, h, c = torch._VF.lstm(x, full, weights, *rest)  # type: ignore[attr-defined]
        return out, (h, c)

    def dense_state(self) -> dict[str, Tensor]:
        """Return torch's own weights and biases, `weight_ih_l0`, …, in torch's order."""
        found: dict[str, Tensor] = {}
        for index, (suffix, plan) in enumerate(zip(self.options.suffixes, self.plans, strict=True)):
            tensors = [t for t in self.direction(index) if t is not None]
            weights = [part.scatter(values) for part, values in zip(plan.parts, tensors, strict=False)]
            found |= zip(self.options.names(suffix), weights + tensors[len(weights) :], strict=True)
        return found

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of the dense weights."""
        kinds = ("values_ih", "values_hh")
        pairs = zip(self.options.suffixes, self.plans, strict=True)
        return {f"{n}_{end}": part.shape for end, plan in pairs for n, part in zip(kinds, plan.parts, strict=True)}

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight or a bias in, or say why not."""
        kind, which, suffix = name.split("_", 2)
        if kind == "weight":
            part = self.plans[self.options.suffixes.index(suffix)].parts[which == "hh"]
            return take_survivors(getattr(self, f"values_{which}_{suffix}"), part.gather(found), found)
        if name in self.pruned and bool(found.any()):
            return "is not zero, but this layer's mask prunes it whole; apply the masks first"
        getattr(self, name).copy_(found)
        return None

    def dense(self) -> nn.LSTM | nn.GRU:
        """Return the dense layer, bit for bit; constants that were buffers in it stay buffers."""
        kind = nn.GRU if self.gru else nn.LSTM
        dense = kind(**{**asdict(self.options), "dropout": 0.0}, device="meta")
        dense.dropout = self.options.dropout  # torch warns where it has no effect, as it did when it was first made
        for name, tensor in self.dense_state().items():
            copy = tensor.detach().clone()
            if name in self._buffers and name not in self.pruned:
                delattr(dense, name)
                dense.register_buffer(name, copy)
            else:
                source = getattr(self, name.replace("weight", "values"))
                setattr(dense, name, nn.Parameter(copy, requires_grad=source.requires_grad or name in self.pruned))
        return dense.train(self.training)

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


def sparse_recurrent(module: nn.LSTM | nn.GRU, masks: Mapping[str, Tensor]) -> SparseRecurrent:
    """Take the surviving weights out of a dense layer, as copies.

    Args:
        module: the dense layer.
        masks: by the layer's own names ("weight_ih_l0"); a weight without one keeps all, a bias must be kept or
            pruned whole. A pruned bias becomes a constant zero.

    >>> layer = nn.GRU(3, 2)
    >>> sparse = sparse_recurrent(layer, {"weight_ih_l0": torch.eye(6, 3) > 0})
    >>> [(name, tuple(p.shape)) for name, p in sparse.named_parameters()][:2]
    [('values_ih_l0', (3,)), ('values_hh_l0', (12,))]
    """
    options = RecurrentOptions(**{field.name: getattr(module, field.name) for field in fields(RecurrentOptions)})
    kind = SparseGRU if isinstance(module, nn.GRU) else SparseLSTM
    pruned = frozenset(name for name, mask in masks.items() if name.startswith("bias") and not bool(mask.any()))
    plans: list[RecurrentPlan] = []
    tensors: dict[str, Tensor] = {}
    for suffix in options.suffixes:
        own: dict[str, Tensor] = {n: getattr(module, n) for n in options.names(suffix)}
        kept = [masks.get(n, torch.ones_like(t, dtype=torch.bool)) for n, t in own.items() if n.startswith("weight")]
        plans.append(plan_recurrent(*kept, gru=kind.gru))
        for index, (name, tensor) in enumerate(own.items()):
            if name.startswith("weight"):
                values = plans[-1].parts[index].gather(tensor.detach())
            else:
                values = torch.zeros_like(tensor.detach()) if name in pruned else tensor.detach().clone()
            if isinstance(tensor, nn.Parameter) and name not in pruned:
                values = nn.Parameter(values, requires_grad=tensor.requires_grad)
            tensors[name.replace("weight", "values")] = values
    return kind(options, tuple(plans), tensors, pruned=pruned).train(module.training)
