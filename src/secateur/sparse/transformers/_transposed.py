"""SparseTransposedLinear: GPT-2's `Conv1D`, a linear layer whose weight is stored inputs first, by its survivors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.types import Bool
from secateur.sparse.calls import autocast_to
from secateur.sparse.layers import SparseLinear, built, dense_linear, take_survivors, thinned_onto
from secateur.sparse.plans import plan_layer


class SparseTransposedLinear(SparseLinear):
    """A `SparseLinear` that stands for GPT-2's `Conv1D`: its `state_dict` has the weight as [inputs, outputs].

    y = x W + b, where W [inputs, outputs] is zero but for `values`. They are stored in the order of Wᵀ, that of
    `SparseLinear`, whose kernels they run in. Made by `sparsify`; what stands in `SparseLinear` holds here too.

    Attributes:
        shell: the dense layer without its weights, a class of somebody else's: `dense` fills a copy of it.
    """

    shell: nn.Module

    @staticmethod
    def from_conv1d(layer: nn.Module, mask: Bool[Tensor, "columns rows"]) -> SparseTransposedLinear:
        """Take the weights that `mask` [inputs, outputs] keeps out of a `Conv1D`, as copies."""
        weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
        sparse = thinned_onto(SparseTransposedLinear, plan_layer(mask.t(), blocks=True), weight.t(), bias)
        empty = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        memo: dict[int, Any] = {id(weight): empty}
        if bias is not None:
            memo[id(bias)] = nn.Parameter(torch.empty_like(bias, device="meta"), requires_grad=bias.requires_grad)
        sparse.__dict__["shell"] = copy.deepcopy(layer, memo)  # not by `setattr`: it is no module of this one
        return sparse.train(layer.training)

    def dense(self) -> nn.Module:  # type: ignore[override]
        """Return the `Conv1D`, with copies of the weights as they are now, bit for bit."""
        made = copy.deepcopy(self.shell)
        weight = self.plan.scatter(self.values.detach()).t().contiguous()
        made.register_parameter("weight", nn.Parameter(weight, requires_grad=self.values.requires_grad))
        if self.bias is not None:
            bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
            made.register_parameter("bias", bias)
        return made.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight [inputs, outputs], built when asked for, to be read."""
        return built(self.plan.scatter(self.values).t(), f"{type(self).__name__}.weight", live=True)

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weight [inputs, outputs] and the bias."""
        own = {"weight": self.plan.scatter(self.values).t().contiguous()}
        return own | ({} if self.bias is None else {"bias": self.bias})

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return the shape of the dense weight."""
        return {"values": torch.Size((self.plan.columns, self.plan.rows))}

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight [inputs, outputs] or a bias in, or say why not."""
        if name == "weight":
            return take_survivors(self.values, self.plan.gather(found.detach().t()), found)
        return super().take(name, found)

    def _densely(self, x: Tensor) -> Tensor:
        return dense_linear(x, self.multiplied(autocast_to(x))[0].t(), self.bias, onednn=self.onednn)


def why_no_conv1d(layer: nn.Module) -> str | None:
    """Tell why a layer that is called `Conv1D` is not GPT-2's, or return None; hooks of it are not run."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    others = set(layer._parameters) - {"weight", "bias"} or layer._buffers or layer._modules
    if others or (bias is not None and bias.shape != weight.shape[1:]):
        return "it has other tensors than the weight [inputs, outputs] and the bias [outputs] of GPT-2's Conv1D"
    sample = torch.rand(2, weight.shape[0], dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = sample @ weight if bias is None else torch.addmm(bias, sample, weight)
        try:
            found: Any = type(layer).forward(layer, sample)
        except Exception as problem:  # whatever a stranger's forward raises
            return f"its forward does not take [batch, inputs] as GPT-2's Conv1D does: {type(problem).__name__}"
    alike = isinstance(found, Tensor) and found.shape == wanted.shape
    near = {"rtol": 1e-3, "atol": 1e-4} if weight.dtype.itemsize > 2 else {"rtol": 0.05, "atol": 0.05}
    if not alike or not torch.allclose(found, wanted, **near, equal_nan=True):
        return "its forward computes something else than x W + b, which GPT-2's Conv1D does"
    return None
