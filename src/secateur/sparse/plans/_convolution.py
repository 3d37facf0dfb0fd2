"""Where the surviving weights of one convolution are, and how it slides over its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from secateur._base.types import Bool, Int
from secateur.sparse.plans._survivors import Survivors, places_of


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


class ConvolutionPlan(Survivors):
    """Where the surviving weights of one convolution are, ascending. Immutable; copies share it.

    Attributes:
        geometry: the sizes of the convolution.
    """

    made_of = ("geometry", "positions")

    def __init__(self, geometry: Geometry, positions: Int[Tensor, " kept"]) -> None:
        super().__init__(geometry.weight_shape, positions)
        self.geometry = geometry


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

    >>> import torch
    >>> mask = torch.tensor([True, False, True]).view(1, 1, 3)
    >>> plan_convolution(nn.Conv1d(1, 1, 3), mask).positions.tolist()
    [0, 2]
    """
    return ConvolutionPlan(geometry_of(convolution), places_of(mask))
