"""SparseConv1d and SparseConv2d: convolutions whose only weights are those that survived."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.types import Bool, Float
from secateur.sparse.calls._build import Network, build_network
from secateur.sparse.calls._chain import fits
from secateur.sparse.calls._network import run_network, slot_tensors
from secateur.sparse.layers._state import WeightState
from secateur.sparse.plans._convolution import ConvolutionPlan, plan_convolution
from secateur.sparse.programs._network import Kind, Operation, Program

__all__ = ["SparseConv1d", "SparseConv2d", "SparseConvolution", "dense_convolution", "sparse_convolution"]


class SparseConvolution(WeightState[ConvolutionPlan]):
    """A convolution that stores, computes and trains its surviving weights only.

    y[o, p] = b[o] + Σ w · x[i, stride · p + dilation · k − padding] over the weights w that the mask keeps of
    output channel o, each at its input channel i and its place k in the kernel.

    The parameters are `values` [kept] and `bias` [output channels]; `state_dict` gives and takes an ordinary
    dense `weight` instead, as torch's convolutions do. 32-bit floats on the CPU run in the sparse kernels; other
    types, other devices and empty batches run as the dense convolution with the same weights. Images are packed
    into the kernels' layout and back at each call: `sparsify` joins neighbouring layers to save that.

    Args:
        plan: where the surviving weights are.
        values: their values, in the plan's order.
        bias: one per output channel, or None.
        compute_dense: convolve densely although the weights are stored sparsely; right above the break-even
            density.
    """

    rank = 0  # dimensions of an image

    def __init__(
        self,
        plan: ConvolutionPlan,
        values: Float[Tensor, " kept"],
        bias: Float[Tensor, " outputs"] | None,
        *,
        compute_dense: bool = False,
    ) -> None:
        super().__init__()
        self.plan, self.compute_dense = plan, compute_dense
        self.values = nn.Parameter(values)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._networks: dict[tuple[int, ...], Network] = {}

    def forward(self, x: Float[Tensor, "*image"]) -> Float[Tensor, "*result"]:
        """Convolve: [batch, input channels, (rows,) columns] → [batch, output channels, (rows,) columns]."""
        geometry = self.plan.geometry
        if x.dim() not in (self.rank + 1, self.rank + 2) or x.shape[-self.rank - 1] != geometry.in_channels:
            raise ValueError(
                f"the input of {type(self).__name__} must be [batch, {geometry.in_channels} channels, "
                f"{'rows, ' if self.rank == 2 else ''}columns], got the shape {tuple(x.shape)}"
            )
        if x.dim() == self.rank + 1:
            return self.forward(x[None])[0]
        if self.compute_dense or door.native is None or not fits(x, self.values, self.bias):
            return self._dense(x)
        network = self._network(tuple(x.shape[1:]))
        return run_network(x, network, slot_tensors(network), training=self.training)

    def _network(self, shape: tuple[int, ...]) -> Network:
        if shape not in self._networks:
            operation = Operation(Kind.CONVOLUTION, (0,), 1, self, "convolution")
            self._networks[shape] = build_network(Program((operation,), 1, self.rank, False, False), shape, {})
        return self._networks[shape]

    def _dense(self, x: Tensor) -> Tensor:
        if not self.compute_dense and door.native is not None and x.numel():
            kind = f"{x.dtype} on {x.device.type}".removeprefix("torch.")
            warnings.warn(
                f"{type(self).__name__} computes densely: its kernels take float32 on cpu, got {kind} with "
                f"{str(self.values.dtype).removeprefix('torch.')} weights on {self.values.device.type}. "
                "Use secateur.densify(model) there.",
                stacklevel=4,
            )
        g = self.plan.geometry
        convolve: Any = nn.functional.conv2d if self.rank == 2 else nn.functional.conv1d
        return convolve(x, self.weight, self.bias, g.stride, g.padding, g.dilation, g.groups)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_networks": {}}  # compiled again where the copy goes

    def extra_repr(self) -> str:
        """Name the sizes and the density."""
        g, how = self.plan.geometry, ", computed densely" if self.compute_dense else ""
        return (
            f"{g.in_channels}, {g.out_channels}, kernel_size={g.kernel_size}, stride={g.stride}, "
            f"padding={g.padding}, dilation={g.dilation}, groups={g.groups}, bias={self.bias is not None}, "
            f"density={self.plan.density:.4g}{how}"
        )


class SparseConv1d(SparseConvolution):
    """A `SparseConvolution` over sequences."""

    rank = 1


class SparseConv2d(SparseConvolution):
    """A `SparseConvolution` over images.

    >>> dense = nn.Conv2d(2, 3, 3, padding=1)
    >>> sparse = sparse_convolution(dense, torch.ones(3, 2, 3, 3) > 0)
    >>> x = torch.arange(36.0).view(1, 2, 3, 6)
    >>> bool((sparse(x) - dense(x)).abs().max() < 1e-4)
    True
    """

    rank = 2


def sparse_convolution(
    convolution: nn.Conv1d | nn.Conv2d, mask: Bool[Tensor, "outputs inputs *kernel"]
) -> SparseConvolution:
    """Take the weights that `mask` keeps out of a dense convolution, as copies; the rest is left behind."""
    plan = plan_convolution(convolution, mask)
    kind = SparseConv2d if isinstance(convolution, nn.Conv2d) else SparseConv1d
    with torch.no_grad():
        bias = None if convolution.bias is None else convolution.bias.detach().clone()
        sparse = kind(plan, plan.gather(convolution.weight.detach()), bias)
    sparse.values.requires_grad_(convolution.weight.requires_grad)
    if sparse.bias is not None and convolution.bias is not None:
        sparse.bias.requires_grad_(convolution.bias.requires_grad)
    return sparse.train(convolution.training)


def dense_convolution(sparse: SparseConvolution) -> nn.Conv1d | nn.Conv2d:
    """Return the dense convolution that this one was made of, with its weights as they are now."""
    g = sparse.plan.geometry
    kind: Any = nn.Conv2d if sparse.rank == 2 else nn.Conv1d
    made = kind(
        g.in_channels, g.out_channels, g.kernel_size, g.stride, g.padding, g.dilation, g.groups,
        bias=sparse.bias is not None, device="meta",
    )  # fmt: skip
    weight = sparse.plan.scatter(sparse.values.detach())
    made.weight = nn.Parameter(weight, requires_grad=sparse.values.requires_grad)
    if sparse.bias is not None:
        made.bias = nn.Parameter(sparse.bias.detach().clone(), requires_grad=sparse.bias.requires_grad)
    return made.train(sparse.training)
