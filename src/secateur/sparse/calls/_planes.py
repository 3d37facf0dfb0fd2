"""Convolutions of few samples: vectors run along the positions of the images, not over samples."""

from __future__ import annotations

from typing import Any

from secateur._base import door
from secateur.sparse.calls._build import Network
from secateur.sparse.calls._workspace import Arena
from secateur.sparse.plans import ConvolutionPlan
from secateur.sparse.programs import UnsupportedError

#: Batches of fewer samples leave so much of a vector over samples idle that positions are always the better choice.
FEW = 16


def side_by_side(plan: ConvolutionPlan, shape: tuple[int, ...], samples: int) -> int:
    """Return how many samples a long row should hold, or 0 where vectors should run over samples.

    Vectors over samples leave ⌈N / 16⌉ · 16 − N lanes idle and turn every image over twice, which a 1×1 convolution has
    not the work for; vectors along positions compute the borders between rows and images too.

    Args:
        plan: the convolution.
        shape: of one sample, [channels, (rows,) columns].
        samples: N, of the batch.

    >>> from torch import nn, ones
    >>> from secateur.sparse.plans import plan_convolution
    >>> plan = plan_convolution(nn.Conv2d(1, 1, 3, padding=1), ones(1, 1, 3, 3) > 0)
    >>> [side_by_side(plan, (1, 7, 7), samples) for samples in (1, 3, 8, 64)], side_by_side(plan, (1, 14, 14), 8)
    ([1, 3, 5, 0], 1)
    """
    native: Any = door.native
    sizes = _sizes(plan, shape)
    together: int = native.PlaneConvolution.side_by_side(sizes, samples)
    wide_enough = together == 1 and sizes[5] * sizes[6] == 1
    return together if samples < FEW or wide_enough else 0


def _sizes(plan: ConvolutionPlan, shape: tuple[int, ...]) -> list[int]:
    channels, window = plan.geometry.sizes
    return [*channels, *(1, *shape[1:])[-2:], *window]


def build_planes(
    plan: ConvolutionPlan, shape: tuple[int, ...], together: int, arena: Arena, *, trains: bool
) -> Network:
    """Build one convolution for inputs of this shape, `together` samples side by side.

    Args:
        plan: where the surviving weights are.
        shape: of one sample, [channels, (rows,) columns].
        together: how many samples a long row holds, from `side_by_side`.
        arena: where its calls take their workspaces.
        trains: whether gradients will be asked for; without, 1×1 convolutions read and write images where they lie.

    Raises:
        UnsupportedError: an image that the kernel does not fit, or one too large for the kernels' numbers.
    """
    native: Any = door.native
    try:
        layer = native.PlaneConvolution(_sizes(plan, shape), plan.positions.numpy(), together, trains)
    except ValueError as error:
        raise UnsupportedError(f"the convolution does not fit inputs of shape {shape}: {error}") from error
    found = layer.shape()
    outputs = (found[0], found[2]) if len(shape) == 2 else tuple(found)
    return Network(layer, (), outputs, (), arena)
