"""SparseInt8Linear: a linear layer whose surviving weights are eight bits each, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float, Int
from secateur.sparse.calls import autocast_to, eight_bits, int8_by_torch, int8_layer, int8_linear, refuse_lookers
from secateur.sparse.layers._state import DenseState, fill
from secateur.sparse.plans import LayerPlan, plan_layer

_KINDS = (torch.float32, torch.bfloat16)


class SparseInt8Linear(DenseState):
    """A linear layer whose surviving weights are signed bytes, with one scale for each output; for inference alone.

    W [rows, columns] is s q: q from −127 to 127 at the places that the mask keeps, s = max |W| / 127 of each row. A
    sample x is rounded likewise, with one scale t, and

        y = s t Σ q round(x / t) + b,

    where the sum is of whole numbers, and exact: all processors compute the same. A sample that is not finite gives NaN
    in all outputs.

    Nothing in it is a parameter. `train()` is refused, and so is an input that wants a gradient. The `state_dict` has
    the dense `weight`, s q; it is not loaded from one.

    Args:
        plan: where the surviving weights are.
        values: q, in the plan's order.
        scales: s.
        bias: one per row, or None.
        dtype: of the dense layer that it was, and that `dense` makes again.
    """

    compute_dense = False
    plan: LayerPlan
    values: Tensor
    scales: Tensor
    bias: Tensor | None
    like: Tensor

    def __init__(
        self,
        plan: LayerPlan,
        values: Int[Tensor, " kept"],
        scales: Float[Tensor, " rows"],
        bias: Float[Tensor, " rows"] | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.plan, self.training = plan, False
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.register_buffer(
            "like", torch.empty(0, dtype=dtype, device=scales.device)
        )  # follows `to`, as a weight does

    @staticmethod
    def from_dense(linear: nn.Linear, mask: Bool[Tensor, "rows columns"]) -> SparseInt8Linear:
        """Round the weights that `mask` keeps of a dense layer; the rest is left behind."""
        plan, weight = plan_layer(mask, blocks=True), linear.weight.detach().float()
        whole, scales = eight_bits(weight * mask.to(weight.device))
        bias = None if linear.bias is None else linear.bias.detach().float().clone()
        return SparseInt8Linear(plan, plan.gather(whole).to(torch.int8), scales, bias, linear.weight.dtype)

    @property
    def weight(self) -> Tensor:
        """The dense weight s q, built when asked for."""
        return self._whole() * self.scales.float()[:, None]

    @property
    def bytes(self) -> int:
        """How many bytes the weights take: values, scales, and what says where they are."""
        masks = self.plan.rows * -(-self.plan.columns // 64) * 8
        return self.values.nbytes + self.scales.nbytes + masks

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """Multiply: [..., columns] → [..., rows], in the type of `x`, or the one that autocast wants."""
        refuse_lookers(x)
        if x.shape[-1] != self.plan.columns:
            raise ValueError(f"the input of SparseInt8Linear must have {self.plan.columns} features, got {x.shape[-1]}")
        if torch.is_grad_enabled() and x.requires_grad:
            raise SecateurError(
                "int8 weights pass no gradients on. Call the model under torch.no_grad(), or take "
                "secateur.sparsify(model, masks) of the dense model for gradients."
            )
        wanted, rows = autocast_to(x) or x.dtype, x.detach().reshape(-1, self.plan.columns)
        return self._product(rows, wanted).view(*x.shape[:-1], self.plan.rows)

    def _product(self, x: Tensor, wanted: torch.dtype) -> Tensor:
        bias = None if self.bias is None else self.bias.float().contiguous()
        kernels = x.is_cpu and x.dtype in _KINDS and wanted in _KINDS and x.numel() > 0
        layer = self._kept("_layer", lambda: int8_layer(self.plan, self.values, self.scales)) if kernels else None
        if layer is not None:
            return int8_linear(x, layer, bias, wanted)
        whole = self._kept("_dense", self._whole)
        return int8_by_torch(x, whole, self.scales.float(), bias, wanted)

    def _kept(self, name: str, make: Any) -> Any:
        """Make something of the weights that is kept for the next call, until they are moved."""
        key = (self.values.data_ptr(), self.scales.data_ptr(), self.values.device)
        kept = self.__dict__.get(name)
        if kept is None or kept[0] != key:
            kept = self.__dict__[name] = (key, make())
        return kept[1]

    def _whole(self) -> Tensor:
        return self.plan.scatter(self.values.float())

    def dense(self) -> nn.Linear:
        """Return the dense layer of the rounded weights. It does not train."""
        made = nn.Linear(self.plan.columns, self.plan.rows, bias=self.bias is not None, device="meta")
        return fill(made, self.weight, self, trains=False).to(self.like.dtype)

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weight and the bias."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return nothing: there are no parameters."""
        return {}

    def take(self, name: str, found: Tensor) -> str | None:
        """Refuse every tensor: rounded weights are made of dense ones."""
        return "is rounded to int8 and is not loaded; load it into the dense model and quantize that"

    def train(self, mode: bool = True) -> Any:
        """Set evaluation mode; training is refused."""
        if mode:
            raise SecateurError(
                "int8 weights do not train. Train the dense model, or secateur.sparsify(model, masks) of it, and "
                "quantize again."
            )
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_layer", "_dense")}

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        sizes = f"in_features={self.plan.columns}, out_features={self.plan.rows}, bias={self.bias is not None}"
        return f"{sizes}, density={self.plan.density:.4g}"
