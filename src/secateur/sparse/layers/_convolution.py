"""SparseConv1d and SparseConv2d: convolutions whose only weights are those that survived."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.recent import remember
from secateur._base.types import Bool, Float
from secateur.sparse.calls import (
    SHAPES,
    Arena,
    Network,
    autocast_to,
    build_network,
    build_planes,
    fits,
    in_float32,
    refuse_lookers,
    run_network,
    side_by_side,
)
from secateur.sparse.layers._state import WeightState, fill, thinned
from secateur.sparse.plans import ConvolutionPlan, Geometry, plan_convolution
from secateur.sparse.programs import Kind, Operation, Program


class SparseConvolution(WeightState[ConvolutionPlan]):
    """A convolution that stores, computes and trains its surviving weights only.

    y[o, p] = b[o] + Σ w · x[i, stride · p + dilation · k − padding] over the weights w that the mask keeps of
    output channel o, each at its input channel i and its place k in the kernel.

    The parameters are `values` [kept] and `bias` [output channels]; `state_dict` gives and takes an ordinary
    dense `weight` instead, as torch's convolutions do. 32-bit floats on the CPU run in the sparse kernels; other
    types, other devices and empty batches run as the dense convolution with the same weights. Batches of 16 samples
    and more are packed into the kernels' layout and back at each call: `sparsify` joins neighbouring layers to save
    that. Those of fewer samples, and 1×1 convolutions of large images, are computed along the images' positions.

    Args:
        plan: where the surviving weights are.
        values: their values, in the plan's order.
        bias: one per output channel, or None.
        compute_dense: convolve densely although the weights are stored sparsely; right above the break-even
            density.
    """

    rank = 0  # dimensions of an image

    def forward(self, x: Float[Tensor, "*image"]) -> Float[Tensor, "*result"]:
        """Convolve: [batch, input channels, (rows,) columns] → [batch, output channels, (rows,) columns]."""
        refuse_lookers(x)
        geometry = self.plan.geometry
        if x.dim() not in (self.rank + 1, self.rank + 2) or x.shape[-self.rank - 1] != geometry.in_channels:
            raise ValueError(
                f"the input of {type(self).__name__} must be [batch, {geometry.in_channels} channels, "
                f"{'rows, ' if self.rank == 2 else ''}columns], got the shape {tuple(x.shape)}"
            )
        if x.dim() == self.rank + 1:
            return self.forward(x[None])[0]
        wanted = autocast_to(x)
        if wanted is not None and not self.compute_dense and door.native is not None and self._takes(x):
            ways = (in_float32(self._sparsely, wanted), self._densely)
            return ways[self._fastest(("layer", wanted), x, ways, (self,))](x)
        if self.compute_dense or door.native is None or not fits(x, self.values, self.bias):
            if not self.compute_dense and door.native is not None and x.numel():
                self._warn_dense(x, self.values, stacklevel=4)
            return self._densely(x)
        slower = self._apart_is_faster("layer", x, self._sparsely, self._densely, (self,))
        return self._densely(x) if slower else self._sparsely(x)

    def _takes(self, x: Tensor) -> bool:
        """Whether the kernels can compute a call under autocast, in float32."""
        with torch.autocast("cpu", enabled=False):
            return fits(x.float(), self.values, self.bias)

    def _sparsely(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in (x, self.values, self.bias) if t is not None)
        together = side_by_side(self.plan, tuple(x.shape[1:]), x.shape[0])
        network = self._network(tuple(x.shape[1:]), together, trains)
        return run_network(x, network, (self.values, self.bias), training=False)

    def _network(self, shape: tuple[int, ...], together: int, trains: bool) -> Network:
        networks: dict[object, Network] = self.__dict__.setdefault("_networks", {})
        key = (shape, together, trains) if together else shape
        found = networks.get(key)
        if found is None:
            arena: Arena = self.__dict__.get("_arena") or self.__dict__.setdefault("_arena", Arena())
            if together:
                made = build_planes(self.plan, shape, together, arena, trains=trains)
            else:
                operation = Operation(Kind.CONVOLUTION, (0,), 1, self, "convolution")
                made = build_network(Program((operation,), 1, self.rank, False, False), shape, {}, arena)
            # Without its slots it does not refer to this layer: both go as soon as nobody needs the layer.
            found = remember(networks, key, replace(made, slots=()), most=SHAPES)
        return found

    def __getstate__(self) -> dict[str, Any]:
        left = ("_networks", "_arena")  # compiled again elsewhere
        return {key: value for key, value in super().__getstate__().items() if key not in left}

    def _densely(self, x: Tensor) -> Tensor:
        g = self.plan.geometry
        convolve: Any = nn.functional.conv2d if self.rank == 2 else nn.functional.conv1d
        return convolve(x, self.multiplied(autocast_to(x))[0], self.bias, g.stride, g.padding, g.dilation, g.groups)

    def dense(self) -> nn.Conv1d | nn.Conv2d:
        """Return the dense convolution, with copies of the weights as they are now, bit for bit."""
        kind: Any = nn.Conv2d if self.rank == 2 else nn.Conv1d
        sizes = {f.name: getattr(self.plan.geometry, f.name) for f in fields(Geometry)}
        made = kind(**sizes, bias=self.bias is not None, device="meta")
        return fill(made, self.plan.scatter(self.values.detach()), self, trains=self.values.requires_grad)

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

    >>> import torch
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
    kind = SparseConv2d if isinstance(convolution, nn.Conv2d) else SparseConv1d
    return thinned(kind, plan_convolution(convolution, mask), convolution)
