"""SparseLinear: a linear layer whose only weights are those that survived."""

from __future__ import annotations

from torch import Tensor, nn

from secateur._base.types import Bool, Float
from secateur.sparse.calls import fits, refuse_lookers, sparse_chain
from secateur.sparse.layers._onednn import dense_linear
from secateur.sparse.layers._state import WeightState, fill, thinned
from secateur.sparse.plans import LayerPlan, plan_layer


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

    Attributes:
        onednn: whether that dense product goes through oneDNN.
    """

    onednn = False

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
        if self.compute_dense:
            return dense_linear(x, self.plan.scatter(self.values), self.bias, onednn=self.onednn)
        if fits(x, self.values, self.bias):
            return sparse_chain(x, (self.plan,), (self.values,), (self.bias,))
        if x.numel():
            self._warn_dense(x, self.values, stacklevel=4)
        return nn.functional.linear(x, self.plan.scatter(self.values), self.bias)

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        how = ", computed densely" if self.compute_dense else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"density={self.plan.density:.4g}{how}"
        )
