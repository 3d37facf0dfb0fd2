"""SparseAttention: multi-head attention whose projections are their surviving weights only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional

from secateur.sparse.calls import refuse_lookers
from secateur.sparse.layers import DenseState, SparseLinear, built, take_survivors
from secateur.sparse.plans import LayerPlan
from secateur.sparse.transformers._attend import Call, attend, merged_mask
from secateur.sparse.transformers._rows import RowsOf

BIASES = ("in_proj_bias", "bias_k", "bias_v")


@dataclass(frozen=True)
class AttentionOptions:
    """The options of an `nn.MultiheadAttention`, under torch's names."""

    embed_dim: int
    num_heads: int
    dropout: float
    bias: bool
    add_bias_kv: bool
    add_zero_attn: bool
    kdim: int
    vdim: int
    batch_first: bool


class SparseAttention(DenseState):
    """An `nn.MultiheadAttention` that stores, computes and trains the surviving weights of its projections only.

    softmax(Q Kᵀ / √d + mask) V for each head, with Q = q W_qᵀ + b_q, and K and V likewise; the heads side by side go
    through the output projection. What `nn.MultiheadAttention` takes, it takes: packed or separate weights, `bias_k`
    and `bias_v`, `add_zero_attn`, both orders of the dimensions, masks, `is_causal`, `need_weights`. A nested tensor
    is refused.

    The parameters are `in_proj_values` [kept] (or `q_proj_values`, `k_proj_values` and `v_proj_values`), torch's
    biases, and those of `out_proj`, a `SparseLinear` if it has a mask. `state_dict` gives and takes the dense
    `in_proj_weight` and so on. Between the projections runs torch's `scaled_dot_product_attention`, with dropout in
    training as `nn.MultiheadAttention` has it. Made by `sparsify`.

    Args:
        options: sizes and switches.
        plans: where the surviving weights are, by the name of the weight.
        tensors: the surviving values (`in_proj_values`, …) and the biases by name.
        out_proj: the output projection.
        compute_dense: multiply the projections of the inputs densely although they are stored sparsely.
    """

    def __init__(
        self,
        options: AttentionOptions,
        plans: Mapping[str, LayerPlan],
        tensors: Mapping[str, nn.Parameter],
        out_proj: nn.Module,
        *,
        compute_dense: bool = False,
    ) -> None:
        super().__init__()
        self.options, self.plans, self.compute_dense, self.onednn = options, dict(plans), compute_dense, False
        # Under torch's names, for code written for torch's module: its encoder layers ask for most of these.
        self.embed_dim, self.num_heads, self.kdim, self.vdim = (
            options.embed_dim, options.num_heads, options.kdim, options.vdim,
        )  # fmt: skip
        self.head_dim, self.dropout = options.embed_dim // options.num_heads, options.dropout
        self.batch_first, self.add_zero_attn = options.batch_first, options.add_zero_attn
        # So that an encoder layer of a class of somebody else's does not ask for the dense weights at each forward.
        self._qkv_same_embed_dim = False
        self.in_proj_bias: Tensor | None
        self.bias_k: Tensor | None
        self.bias_v: Tensor | None
        for name in BIASES:
            self.register_parameter(name, tensors.get(name))
        for weight in self.plans:
            self.register_parameter(values_of(weight), tensors[values_of(weight)])
        self.out_proj = out_proj

    @property
    def density(self) -> float:
        """The fraction of the weights of the input projections that are kept, in [0, 1]."""
        return sum(p.kept for p in self.plans.values()) / sum(p.shape.numel() for p in self.plans.values())

    @property
    def in_proj_weight(self) -> Tensor | None:
        """The dense weight of all input projections, built when asked for, to be read; None where they are apart."""
        return self._dense_weight("in_proj_weight")

    @property
    def q_proj_weight(self) -> Tensor | None:
        """The dense weight of the queries, where it is apart, built when asked for, to be read."""
        return self._dense_weight("q_proj_weight")

    @property
    def k_proj_weight(self) -> Tensor | None:
        """The dense weight of the keys, where it is apart, built when asked for, to be read."""
        return self._dense_weight("k_proj_weight")

    @property
    def v_proj_weight(self) -> Tensor | None:
        """The dense weight of the values, where it is apart, built when asked for, to be read."""
        return self._dense_weight("v_proj_weight")

    def _dense_weight(self, name: str) -> Tensor | None:
        if name not in self.plans:
            return None
        dense = self.plans[name].scatter(self.get_parameter(values_of(name)))
        return built(dense, f"SparseAttention.{name}", live=True)

    def let_choose(self, *, settled: bool | None) -> None:
        """Let each projection choose at its first calls from now on."""
        super().let_choose(settled=settled)
        self.__dict__.pop("_parts", None)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention` does, which see for the arguments.

        Raises:
            TypeError: a nested tensor.
            ValueError: inputs of other sizes than the weights.
        """
        refuse_lookers(query)
        self._refuse(query, key, value)
        batched = functional._mha_shape_check(query, key, value, key_padding_mask, attn_mask, self.num_heads)  # type: ignore[attr-defined]
        call = Call(self.num_heads, self.dropout if self.training else 0.0, need_weights)
        mask, causal = merged_mask(query, key_padding_mask, attn_mask, is_causal, call)
        q, k, v = self._projected(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        k, v = _with_row(k, self.bias_k), _with_row(v, self.bias_v)
        if self.add_zero_attn:
            zero = k.new_zeros(1, 1, self.embed_dim)
            k, v = _with_row(k, zero), _with_row(v, zero)
        out, weights = attend(q, k, v, mask, causal, call)
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1).contiguous()
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return self.out_proj(out), weights

    def _refuse(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        if query.is_nested or key.is_nested or value.is_nested:
            raise TypeError(
                "SparseAttention does not take nested tensors: its kernels want every sample in rows of one length. "
                "Pad them, with a key_padding_mask, or use secateur.densify(model)."
            )
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for name, x, size in zip(("query", "key", "value"), (query, key, value), sizes, strict=True):
            if x.shape[-1:] != (size,):
                raise ValueError(f"the {name} of SparseAttention must have {size} features, got {tuple(x.shape)}")
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(f"key and value differ in their lengths: {tuple(key.shape)}, {tuple(value.shape)}")

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values of all heads side by side; packed weights in as few products as there are
        different inputs."""
        size = self.embed_dim
        if "in_proj_weight" not in self.plans:
            inputs = zip(self.plans, (query, key, value), strict=True)
            return tuple(self._part(name, x, i * size, (i + 1) * size) for i, (name, x) in enumerate(inputs))
        if query is key and key is value:
            return self._part("in_proj_weight", query, 0, 3 * size).chunk(3, -1)
        q = self._part("in_proj_weight", query, 0, size)
        if key is value:
            return q, *self._part("in_proj_weight", key, size, 3 * size).chunk(2, -1)
        k = self._part("in_proj_weight", key, size, 2 * size)
        return q, k, self._part("in_proj_weight", value, 2 * size, 3 * size)

    def _part(self, weight: str, x: Tensor, first: int, last: int) -> Tensor:
        """Multiply by rows of the input projections, counted as in a packed weight."""
        if torch.compiler.is_compiling():
            return _uncompiled(self, weight, x, first, last)
        return self._multiplied(weight, x, first, last)

    def _multiplied(self, weight: str, x: Tensor, first: int, last: int) -> Tensor:
        parts: dict[object, RowsOf] = self.__dict__.setdefault("_parts", {})
        values, bias = self.get_parameter(values_of(weight)), self.in_proj_bias
        if weight != "in_proj_weight":  # a weight of its own: its rows count from 0
            bias = None if bias is None else bias[first:last]
            first, last = 0, self.embed_dim
        found = parts.get((weight, first, last))
        if found is None:
            with torch.inference_mode(mode=False):  # whoever is next may want gradients
                found = RowsOf(self.plans[weight], first, last, compute_dense=self.compute_dense, onednn=self.onednn)
            if "_choices" in self.__dict__:
                found.layer.let_choose(settled=self.__dict__["_settled"])
            parts[weight, first, last] = found
        return found(x, values, bias)

    def train(self, mode: bool = True) -> SparseAttention:
        """Set training or evaluation mode. What was built is built anew: `.data` is written without a trace."""
        for part in self.__dict__.get("_parts", {}).values():
            part.forget()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_parts"}

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weights of the input projections and the biases, under torch's names and in its order."""
        found = {name: plan.scatter(self.get_parameter(values_of(name))) for name, plan in self.plans.items()}
        return found | {n: p for n in BIASES if (p := self._parameters.get(n)) is not None}

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of the dense weights."""
        return {values_of(name): plan.shape for name, plan in self.plans.items()}

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight or a bias in, or say why not."""
        if name in self.plans:
            return take_survivors(self.get_parameter(values_of(name)), self.plans[name].gather(found.detach()), found)
        self.get_parameter(name).copy_(found)
        return None

    def dense(self) -> nn.MultiheadAttention:
        """Return the dense module, with copies of the weights as they are now, bit for bit."""
        made = nn.MultiheadAttention(**asdict(self.options), device="meta")
        for name, tensor in self.dense_state().items():
            source = self.get_parameter(values_of(name) if name in self.plans else name)
            setattr(made, name, nn.Parameter(tensor.detach().clone(), requires_grad=source.requires_grad))
        last = self.out_proj.dense() if isinstance(self.out_proj, SparseLinear) else self.out_proj
        for name, parameter in last.named_parameters():
            copied = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(made.out_proj, name, copied)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        o = self.options
        more = f", kdim={o.kdim}, vdim={o.vdim}" if "in_proj_weight" not in self.plans else ""
        more += f", batch_first={o.batch_first}, density={self.density:.4g}"
        return f"{o.embed_dim}, num_heads={o.num_heads}{more}{', computed densely' if self.compute_dense else ''}"


# `torch.compile` breaks its graph here: which products there are is found out at the calls.
_uncompiled = _disable_dynamo(SparseAttention._multiplied)


def values_of(weight: str) -> str:
    """Name the parameter that holds what survives of a weight: in_proj_weight → in_proj_values."""
    return weight.removesuffix("weight") + "values"


def _with_row(x: Tensor, row: Tensor | None) -> Tensor:
    """Append a row [1, 1, features] to the sequences [batch, length, features]."""
    return x if row is None else torch.cat([x, row.to(x.dtype).expand(x.shape[0], 1, -1)], 1)
