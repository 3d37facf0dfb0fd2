"""Where the surviving weights of one convolution are, and how it slides over its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import MaskError
from secateur._base.types import Bool, Float, Int

__all__ = ["ConvolutionPlan", "Geometry", "geometry_of", "plan_convolution"]


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution; tuples have one number for sequences, two (rows, columns) for images."""

    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense weight: output channels, input channels of a group, kernel."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def sizes(self) -> tuple[list[int], list[int]]:
        """What the kernels ask for before and behind the image's rows and columns; a sequence is one row."""
        rank = len(self.kernel_size)
        kernel, stride, dilation = ((1,) * (2 - rank) + t for t in (self.kernel_size, self.stride, self.dilation))
        padding = (0,) * (2 - rank) + self.padding
        return [self.in_channels, self.out_channels, self.groups], [*kernel, *stride, *padding, *dilation]


class ConvolutionPlan:
    """Where the surviving weights of one convolution are. Immutable; copies share it.

    Attributes:
        geometry: the sizes of the convolution.
        positions: flat place of each surviving weight in the dense weight, ascending.
    """

    __slots__ = ("__weakref__", "geometry", "positions")

    def __init__(self, geometry: Geometry, positions: Int[Tensor, " kept"]) -> None:
        self.geometry, self.positions = geometry, positions

    @property
    def kept(self) -> int:
        """How many weights survive."""
        return self.positions.numel()

    @property
    def density(self) -> float:
        """The fraction kept, in [0, 1]."""
        return self.kept / torch.Size(self.geometry.weight_shape).numel()

    def gather(self, weight: Float[Tensor, "outputs inputs *kernel"]) -> Float[Tensor, " kept"]:
        """Take the surviving weights out of a dense weight."""
        return weight.reshape(-1)[self.positions.to(weight.device)]

    def scatter(self, values: Float[Tensor, " kept"]) -> Float[Tensor, "outputs inputs *kernel"]:
        """Put the surviving weights into a dense weight of zeros. Differentiable."""
        shape = torch.Size(self.geometry.weight_shape)
        flat = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
        return flat.index_copy(0, self.positions.to(values.device), values).view(shape)

    def __copy__(self) -> ConvolutionPlan:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> ConvolutionPlan:
        return self

    def __reduce__(self) -> tuple[type[ConvolutionPlan], tuple[Geometry, Tensor]]:
        return ConvolutionPlan, (self.geometry, self.positions)


def geometry_of(convolution: nn.Conv1d | nn.Conv2d) -> Geometry:
    """Read the sizes of a torch convolution; padding="same" and "valid" become numbers."""
    c = convolution
    if c.padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(c.dilation, c.kernel_size, strict=True))
    else:
        padding = (0,) * len(c.kernel_size) if isinstance(c.padding, str) else tuple(c.padding)
    return Geometry(
        c.in_channels, c.out_channels, c.groups, tuple(c.kernel_size), tuple(c.stride), padding, tuple(c.dilation)
    )


def plan_convolution(
    convolution: nn.Conv1d | nn.Conv2d, mask: Bool[Tensor, "outputs inputs *kernel"]
) -> ConvolutionPlan:
    """Compile a mask into a plan.

    Raises:
        MaskError: 2³¹ or more surviving weights.

    >>> mask = torch.tensor([True, False, True]).view(1, 1, 3)
    >>> plan_convolution(nn.Conv1d(1, 1, 3), mask).positions.tolist()
    [0, 2]
    """
    positions = mask.cpu().reshape(-1).nonzero()[:, 0]
    if positions.numel() >= 2**31:
        raise MaskError("a sparse layer must keep fewer than 2³¹ weights: its indices are 32 bits wide")
    return ConvolutionPlan(geometry_of(convolution), positions)
