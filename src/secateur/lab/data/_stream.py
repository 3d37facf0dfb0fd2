"""Batches as a pure function of (seed, step): a run that was cut goes on with what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil

import torch

from secateur._base.errors import SecateurError
from secateur._base.types import Float, Int, Tensor
from secateur.lab.data._augment import Augment
from secateur.lab.data._dataset import Examples
from secateur.lab.repeat import generator, sent


def order(n: int, *, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """Return the order in which epoch `epoch` visits `n` examples: a permutation of 0 … n−1.

    >>> sorted(order(5, seed=0, epoch=2).tolist())
    [0, 1, 2, 3, 4]
    """
    return _order(n, seed, epoch).clone()


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def indices_at(n: int, size: int, *, seed: int, step: int) -> Int[Tensor, " size"]:
    """Return which of `n` examples form the batch of a step.

    The epochs' permutations are laid end to end and cut into pieces of `size`: every batch is full, no
    example is ever dropped, and a batch may straddle two epochs (as in the authors' code of SNIP).

    Args:
        n: how many examples there are.
        size: examples per batch; may exceed n.
        seed: the seed of the run.
        step: which batch, from 0.

    Raises:
        SecateurError: there are no examples, `size` is below 1 or `step` below 0.

    >>> both = torch.cat([indices_at(6, 3, seed=0, step=step) for step in (0, 1)])
    >>> sorted(both.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    for what, value, least in (("n", n, 1), ("size", size, 1), ("step", step, 0)):
        if value < least:
            raise SecateurError(f"`{what}` must be {least} or more, got {value}.")
    epoch, start = divmod(step * size, n)
    pieces, missing = [], size
    while missing:
        piece = _order(n, seed, epoch)[start : start + missing]
        pieces.append(piece)
        epoch, start, missing = epoch + 1, 0, missing - len(piece)
    return torch.cat(pieces)


def batch_at(
    examples: Examples, size: int, *, seed: int, step: int, augment: Augment | None = None
) -> tuple[Float[Tensor, " size *shape"], Int[Tensor, " size"]]:
    """Return the batch (x, y) of one step, on the examples' device: the same whenever seed and step are.

    What is drawn (indices, and three numbers per image for `flip_and_shift`) is drawn on the CPU, so that it is the
    same everywhere, and sent; everything else happens where the examples lie.

    Args:
        examples: what to draw from.
        size: examples per batch.
        seed: the seed of the run; order and augmentation draw from streams of their own, derived from it.
        step: which batch, from 0. Neighbouring steps share an epoch's permutation, which is remembered.
        augment: changes the images, for instance `flip_and_shift`.

    Raises:
        SecateurError: see `indices_at`.
    """
    index = sent(indices_at(len(examples), size, seed=seed, step=step), examples.x.device)
    x, y = examples.x.index_select(0, index), examples.y.index_select(0, index)
    if augment is not None:
        x = augment(x, generator(seed, "augment", step))
    return x, y


def batches(
    examples: Examples, size: int, *, seed: int, start: int = 0, stop: int, augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of the steps start … stop−1, each as `batch_at` gives it."""
    for step in range(start, stop):
        yield batch_at(examples, size, seed=seed, step=step, augment=augment)


def in_order(examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the examples once, in their order, in pieces of `size` (the last may be smaller)."""
    yield from zip(examples.x.split(size), examples.y.split(size), strict=True)


def steps_in(n: int, size: int, *, epochs: float) -> int:
    """Return how many batches of `size` it takes to visit `n` examples `epochs` times, rounded up.

    >>> steps_in(45_000, 128, epochs=1), steps_in(54_000, 100, epochs=2)
    (352, 1080)
    """
    # Rounded before the ceiling: 0.1 · 30 is a hair above 3 in floating point, and must not cost a step.
    return ceil(round(n * epochs / size, 9))


def rows(x: Float[Tensor, " b *shape"]) -> Float[Tensor, "b steps features"]:
    """Read images row by row, as recurrent nets do: 'b c h w -> b h (c w)'; sequences pass unchanged.

    Source: sequential MNIST by rows, arXiv 1810.02340, §5.3: 28 steps of 28 pixels.

    >>> rows(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 28, 28])
    """
    if x.dim() == 3:
        return x
    if x.dim() != 4:
        raise SecateurError(
            f"`x` must be [batch, channel, row, column] or [batch, step, feature], got {list(x.shape)}."
        )
    return x.permute(0, 2, 1, 3).flatten(2)
