"""SparseLinear: a linear layer whose only weights are those that survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from secateur._base import door
from secateur._base.types import Bool, Float
from secateur.sparse.calls import (
    BlocksTimed,
    Rounded,
    are_float32,
    autocast_to,
    blocks_at_inference,
    blocks_in_training,
    fits,
    half_fits,
    half_linear,
    in_float32,
    refuse_lookers,
    sparse_chain,
)
from secateur.sparse.layers._onednn import dense_linear
from secateur.sparse.layers._state import WeightState, fill, thinned
from secateur.sparse.plans import LayerPlan, plan_layer


class SparseLinear(WeightState[LayerPlan]):
    """A linear layer that stores, computes and trains its surviving weights only.

    y = x Wᵀ + b, where W [rows, columns] is `values` at the places that the mask keeps and exactly zero
    elsewhere: a pruned weight does not exist, so 0 · NaN and 0 · inf are 0 here and an infinite input reaches
    only the units it is connected to.

    The parameters are `values` [kept] and `bias` [rows]; `state_dict` gives and takes an ordinary dense
    `weight` instead, as `nn.Linear` does. 32-bit floats on the CPU run in the sparse kernels; so do bfloat16 numbers,
    and what `torch.autocast` wants in bfloat16, where the values stay float32 masters. Other types, other devices and
    empty batches run as the dense product of the same weights.

    Args:
        plan: where the surviving weights are.
        values: their values, in the plan's order.
        bias: one per row, or None.
        compute_dense: multiply densely although the weights are stored sparsely; right above the break-even
            density.

    Attributes:
        onednn: whether that dense product goes through oneDNN.
        singly: whether weights that are whole blocks are stored as single ones, because it trains faster so.
    """

    onednn = singly = False

    @staticmethod
    def from_dense(linear: nn.Linear, mask: Bool[Tensor, "rows columns"]) -> SparseLinear:
        """Take the weights that `mask` keeps out of a dense layer, as copies; the rest is left behind."""
        return thinned(SparseLinear, plan_layer(mask, blocks=True), linear)

    def dense(self) -> nn.Linear:
        """Return the dense layer, with copies of the weights as they are now, bit for bit."""
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        return fill(made, self.plan.scatter(self.values.detach()), self, trains=self.values.requires_grad)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.plan.columns

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.plan.rows

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """Multiply: [..., columns] → [..., rows]."""
        refuse_lookers(x)
        if x.shape[-1] != self.plan.columns:
            raise ValueError(f"the input of SparseLinear must have {self.plan.columns} features, got {x.shape[-1]}")
        wanted = autocast_to(x)
        if wanted is not None or x.dtype is torch.bfloat16:
            return self._reduced(x, wanted)
        if self.compute_dense:
            return self._densely(x)
        if fits(x, self.values, self.bias):
            slower = self._apart_is_faster("layer", x, self._sparsely, self._densely, (self,))
            return self._densely(x) if slower else self._sparsely(x)
        if x.numel():
            self._warn_dense(x, self.values, stacklevel=4)
        return nn.functional.linear(x, self.plan.scatter(self.values), self.bias)

    def _sparsely(self, x: Tensor) -> Tensor:
        return sparse_chain(x, (self.plan,), (self.values,), (self.bias,))

    def _densely(self, x: Tensor) -> Tensor:
        return dense_linear(x, self.multiplied(autocast_to(x))[0], self.bias, onednn=self.onednn)

    def _reduced(self, x: Tensor, wanted: torch.dtype | None) -> Tensor:
        """Multiply in bfloat16, or as autocast wants it: in the way that is fastest here."""
        kernels = not self.compute_dense and x.numel() > 0
        ways = self._ways(x, wanted) if kernels else []
        if kernels and not ways:
            self._warn_dense(x, self.values, stacklevel=5)
        ways.append(self._densely)
        return ways[self._fastest(("layer", wanted), x, ways, (self,))](x)

    def _ways(self, x: Tensor, wanted: torch.dtype | None) -> list[Callable[[Tensor], Tensor]]:
        """The ways through kernels: in bfloat16, and in float32 as few weights are faster multiplied."""
        tensors = (self.values,) if self.bias is None else (self.values, self.bias)
        ways: list[Callable[[Tensor], Tensor]] = []
        if wanted is torch.bfloat16 or (wanted is None and all(t.dtype is torch.bfloat16 for t in tensors)):
            ways += [self._in_half] if half_fits(x, self.values, self.bias) else []
        if wanted is not None and are_float32(*tensors):
            ways.append(in_float32(self._sparsely, wanted))
        return ways

    def _in_half(self, x: Tensor) -> Tensor:
        rounded: Rounded = self.__dict__.get("_rounded") or self.round_anew()
        tensors = (x, self.values) if self.bias is None else (x, self.values, self.bias)
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        blocks = None
        if not trains:
            found = _uncompiled(self, x) if torch.compiler.is_compiling() else self.blocks_at(x)
            blocks = None if found is None else found.blocks
        return half_linear(x, self.plan, self.values, self.bias, rounded, blocks)

    def blocks_at(self, x: Tensor) -> BlocksTimed | None:
        """Tell which kernels multiply this input in bfloat16 without gradients, timing them if it is the first of its
        kind; None where there is no choice, or it does not choose.
        """
        known: dict[object, BlocksTimed | None] | None = self.__dict__.get("_kernels")
        native: Any = door.native
        if known is None or not half_fits(x, self.values, self.bias):
            return None
        key = (x.dtype, self.values.dtype, x.numel().bit_length(), torch.get_num_threads(), native.half_set())
        if key not in known:
            known[key] = blocks_at_inference(x, self.plan, self.values, self.bias)
        return known[key]

    @torch.no_grad()
    def store_for_training(self, x: Tensor) -> BlocksTimed | None:
        """Store whole blocks as they train faster in bfloat16, on inputs like this: as blocks, or as single weights.

        For a new layer: values move, and an optimizer would not know.
        """
        found = blocks_in_training(x, self.plan, self.values, self.bias) if half_fits(x, self.values, None) else None
        if found is not None and not found.blocks:
            dense, self.singly = self.plan.scatter(self.values.detach()), True
            self.plan = plan_layer(self.plan.mask())
            self.values.data = self.plan.gather(dense)
            self.__dict__.pop("_rounded", None)
        return found

    def round_anew(self) -> Rounded:
        """Begin with no rounded values, and return where they will be: copies of the layer's attributes share it."""
        made = self.__dict__["_rounded"] = Rounded()
        return made

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode. What was rounded is rounded anew: `.data` is written without a trace."""
        self.__dict__.pop("_rounded", None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_rounded"}

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        how = ", computed densely" if self.compute_dense else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"density={self.plan.density:.4g}{how}"
        )


# Timing, and looking a choice up, are nothing for `torch.compile`: it breaks its graph here.
_uncompiled = _disable_dynamo(SparseLinear.blocks_at)
