"""SparseLinear: a linear layer whose only weights are those that survived."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from secateur._base.types import Bool, Float
from secateur.sparse.calls._chain import fits, sparse_chain
from secateur.sparse.layers._onednn import dense_linear
from secateur.sparse.layers._state import WeightState
from secateur.sparse.plans._linear import LayerPlan, plan_layer

__all__ = ["SparseLinear"]


class SparseLinear(WeightState[LayerPlan]):
    """A linear layer that stores, computes and trains its surviving weights only.

    y = x Wᵀ + b, where W [rows, columns] is `values` at the places that the mask keeps and exactly zero
    elsewhere: a pruned weight does not exist, so 0 · NaN and 0 · inf are 0 here and an infinite input reaches
    only the units it is connected to.

    The parameters are `values` [kept] and `bias` [rows]; `state_dict` gives and takes an ordinary dense
    `weight` instead, as `nn.Linear` does. 32-bit floats on the CPU run in the sparse kernels; other types,
    other devices and empty batches run as the dense product of the same weights.

    Args:
        plan: where the surviving weights are.
        values: their values, in the plan's order.
        bias: one per row, or None.
        compute_dense: multiply densely although the weights are stored sparsely; right above the break-even
            density.
        onednn: whether that dense product goes through oneDNN.
    """

    def __init__(
        self,
        plan: LayerPlan,
        values: Float[Tensor, " kept"],
        bias: Float[Tensor, " rows"] | None,
        *,
        compute_dense: bool = False,
        onednn: bool = False,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.compute_dense, self.onednn = compute_dense, onednn
        self.values = nn.Parameter(values)
        self.bias = None if bias is None else nn.Parameter(bias)

    @staticmethod
    def from_dense(linear: nn.Linear, mask: Bool[Tensor, "rows columns"]) -> SparseLinear:
        """Take the weights that `mask` keeps out of a dense layer, as copies; the rest is left behind."""
        plan = plan_layer(mask, blocks=True)
        with torch.no_grad():
            bias = None if linear.bias is None else linear.bias.detach().clone()
            sparse = SparseLinear(plan, plan.gather(linear.weight.detach()), bias)
        sparse.values.requires_grad_(linear.weight.requires_grad)
        if sparse.bias is not None:
            sparse.bias.requires_grad_(linear.bias.requires_grad)
        return sparse.train(linear.training)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.plan.columns

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.plan.rows

    @property
    def runs_sparse(self) -> bool:
        """Whether the sparse kernels are to be used (dense is chosen above the break-even density)."""
        return not self.compute_dense

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """Multiply: [..., columns] → [..., rows]."""
        if x.shape[-1] != self.plan.columns:
            raise ValueError(f"the input of SparseLinear must have {self.plan.columns} features, got {x.shape[-1]}")
        if self.compute_dense:
            return dense_linear(x, self.weight, self.bias, onednn=self.onednn)
        if not fits(x, self.values, self.bias):
            return self._dense_fallback(x)
        return sparse_chain(x, (self.plan,), (self.values,), (self.bias,))

    def _dense_fallback(self, x: Tensor) -> Tensor:
        if x.numel():
            kind = f"{x.dtype} on {x.device.type}".removeprefix("torch.")
            warnings.warn(
                f"SparseLinear computes densely: its kernels take float32 on cpu, got {kind} with "
                f"{str(self.values.dtype).removeprefix('torch.')} weights on {self.values.device.type}. "
                "Use secateur.densify(model) there.",
                stacklevel=4,
            )
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        how = ", computed densely" if self.compute_dense else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"density={self.plan.density:.4g}{how}"
        )
