"""Values that many weights share (Han et al., Deep Compression): one-dimensional k-means over the survivors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import MaskError, SecateurError

__all__ = ["Init", "SharedValues", "codebook_of", "density", "linear", "nearest", "random", "shared_values"]

#: Where k-means begins: from the survivors in ascending order, [kept], and how many values there may be, to as many.
Init = Callable[[Tensor, int], Tensor]

_MOST_BITS = 16
_CHUNK = 1 << 16  # values that are looked up at a time, in the second-level cache
_STEP = 256  # values of which a sum is remembered


@dataclass(frozen=True, eq=False)
class SharedValues:
    """A weight whose survivors share few values. Unpacks: `codebook, indices = shared_values(...)`.

    Attributes:
        codebook: [value], ascending, in the weight's dtype and on its device; each is used.
        indices: [kept], int64: the index into `codebook` of each survivor, in the order of `weight[mask]`.
    """

    codebook: Tensor
    indices: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.codebook, self.indices))

    def weight(self, mask: Tensor) -> Tensor:
        """Return the weight of `mask`'s shape: shared values where it keeps, exact zeros elsewhere."""
        if int(mask.sum()) != len(self.indices):
            raise MaskError(f"`mask` must keep {len(self.indices):,} weights, as many as have indices.")
        full = self.codebook.new_zeros(mask.shape)
        full[mask] = self.codebook[self.indices]
        return full

    def summed(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """Return ∂L/∂C_k = Σ_ij ∂L/∂W_ij · 1[I_ij = k], [value]: what trains the values that are shared."""
        return torch.zeros_like(self.codebook).index_add_(0, self.indices, gradient[mask].to(self.codebook.dtype))


def linear(values: Tensor, count: int) -> Tensor:
    """Begin at equal distances from the smallest to the largest: few large weights, which matter, get values too."""
    if count == 1:
        return ((values[0] + values[-1]) / 2)[None]
    steps = torch.arange(count, dtype=torch.float64) / (count - 1)
    return values[0] + steps * (values[-1] - values[0])


def density(values: Tensor, count: int) -> Tensor:
    """Begin at equal distances in the distribution function: each value gets as many weights."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) * (len(values) / count)
    return values[places.long().clamp(max=len(values) - 1)]


def random(generator: torch.Generator) -> Init:
    """Begin at survivors drawn at random, none twice (Forgy)."""

    def drawn(values: Tensor, count: int) -> Tensor:
        return values[torch.randperm(len(values), generator=generator)[:count]].sort().values

    return drawn


def shared_values(
    weight: Tensor, mask: Tensor | None, bits: int, init: Init = linear, *, rounds: int = 300
) -> SharedValues:
    """Give the survivors of a weight at most 2^bits values, by k-means: the least Σ (w − C[I])² from where it begins.

    Only survivors are clustered, and an exact zero among them stays an exact zero: it takes one of the values. Where
    there are no more distinct values than that, nothing is lost.

    Args:
        weight: floating point, of any shape, finite where it survives.
        mask: of its shape, boolean; None takes all.
        bits: of an index, 1 to 16.
        init: where k-means begins: `linear` (the paper's best), `density` or `random(generator)`.
        rounds: that k-means takes at most; it ends where nothing changes.

    Returns:
        `SharedValues`: the codebook, and the index of each survivor.

    Raises:
        SecateurError: `bits` out of range, a weight that is no float or not finite.
        MaskError: a mask of another shape or type.

    Source:
        Han, Mao, Dally, Deep Compression, arXiv:1510.00149, section 3 and equations 2 and 3.

    >>> weight = torch.tensor([0.9, 0.0, 1.1, -2.0, 0.0])
    >>> codebook, indices = shared_values(weight, weight != 0, bits=1)
    >>> codebook.tolist(), indices.tolist()
    ([-2.0, 1.0], [1, 1, 0])
    """
    require_bits(bits)
    if mask is None:
        mask = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise MaskError(
            f"`mask` must be boolean and of the weight's shape {tuple(weight.shape)}, got {mask.dtype} of "
            f"{tuple(mask.shape)}."
        )
    kept = weight.detach()[mask]
    codebook = codebook_of(kept, bits, init, rounds=rounds)
    return SharedValues(codebook, nearest(codebook, kept))


def require_bits(bits: int) -> None:
    """Refuse a number of bits that no index has."""
    if type(bits) is not int or not 1 <= bits <= _MOST_BITS:
        raise SecateurError(f"`bits` must be a whole number from 1 to {_MOST_BITS}, got {bits!r}: 5 makes 32 values.")


def codebook_of(kept: Tensor, bits: int, init: Init = linear, *, rounds: int = 300, in_place: bool = False) -> Tensor:
    """Return the at most 2^bits values that stand for the survivors `kept`, ascending.

    It takes one copy of them in memory, or none where they may be sorted `in_place`.
    """
    require_bits(bits)
    if not kept.dtype.is_floating_point:
        raise SecateurError(f"shared values are for floating-point weights, got {kept.dtype}.")
    wide = torch.float64 if kept.dtype == torch.float64 else torch.float32
    ordered = kept.detach().to("cpu", wide, copy=not in_place).numpy()
    ordered.sort()
    if len(ordered) and not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
        raise SecateurError("shared values need weights that are finite, got NaN or an infinity.")
    zero = ordered.dtype.type(0)  # of their own type: of another, numpy would make a copy of all of them
    below, above = np.searchsorted(ordered, zero, "left"), np.searchsorted(ordered, zero, "right")
    zeros = int(above - below)
    if zeros:  # out of the way of the others, in place
        for begin in range(int(above), len(ordered), _CHUNK):
            part = ordered[begin : begin + _CHUNK]
            ordered[begin - zeros : begin - zeros + len(part)] = part
        ordered = ordered[: len(ordered) - zeros]
    found = _centroids(ordered, (1 << bits) - bool(zeros), init, rounds)
    if zeros:
        found = np.append(found, 0.0)
    book = torch.from_numpy(np.sort(found)).to(kept.dtype).unique(sorted=True)
    return _used(book, torch.from_numpy(ordered), zeros).to(kept.device)


def nearest(codebook: Tensor, values: Tensor) -> Tensor:
    """Return the index of the codebook's value nearest to each, int64; of two as near, the smaller.

    An exact zero takes an exact zero where the codebook has one: nothing is nearer.
    """
    if not len(codebook):
        return torch.zeros(values.shape, dtype=torch.int64, device=values.device)
    middles = _middles(codebook)
    flat, found = values.reshape(-1), torch.empty(prod(values.shape), dtype=torch.int64, device=values.device)
    for begin in range(0, len(flat), _CHUNK):
        part = flat[begin : begin + _CHUNK].to(torch.float64)
        found[begin : begin + _CHUNK] = torch.bucketize(part, middles)
    return found.reshape(values.shape)


def _middles(codebook: Tensor) -> Tensor:
    wide = codebook.to(torch.float64)
    return (wide[1:] + wide[:-1]) / 2


def _centroids(ordered: np.ndarray, count: int, init: Init, rounds: int) -> np.ndarray:
    """Lloyd's rounds over values in ascending order: a cluster is a range of them, so a round costs one pass."""
    few = np.unique(ordered[:: max(1, len(ordered) // 65536)])
    if len(few) <= count:
        few = ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
    if len(few) <= count:
        return few.astype(np.float64)
    centres = np.sort(init(torch.from_numpy(ordered), count).to(torch.float64).numpy())
    if len(centres) != count:
        raise SecateurError(f"`init` must return {count} values, got {len(centres)}.")
    before, sums_of = None, _sums(ordered, count)
    for _ in range(rounds):
        cuts = np.searchsorted(ordered, ((centres[1:] + centres[:-1]) / 2).astype(ordered.dtype), "right")
        if before is not None and np.array_equal(cuts, before):
            break
        before, edges = cuts, np.concatenate(([0], cuts, [len(ordered)]))
        sizes = np.diff(edges)
        some = sizes > 0  # one that has no values stays where it is
        centres[some] = sums_of(edges)[some] / sizes[some]
    return centres


def _sums(ordered: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """What adds up the values between edges, `count` ranges: few ranges of many values by sums made beforehand."""
    size = len(ordered)
    if size < _STEP * count:

        def added(edges: np.ndarray) -> np.ndarray:
            some = np.diff(edges) > 0
            found = np.zeros(len(some))
            found[some] = np.add.reduceat(ordered, edges[:-1][some], dtype=np.float64)
            return found

        return added
    parts = (ordered[begin : begin + _CHUNK] for begin in range(0, size, _CHUNK))  # of all, numpy would make a copy
    steps = np.concatenate([np.add.reduceat(part, np.arange(0, len(part), _STEP), dtype=np.float64) for part in parts])
    before = np.concatenate(([0.0], np.cumsum(steps)))

    def subtracted(edges: np.ndarray) -> np.ndarray:
        rest = [ordered[edge - edge % _STEP : edge].sum(dtype=np.float64) for edge in edges.tolist()]
        return np.diff(before[edges // _STEP] + np.array(rest))

    return subtracted


def _used(book: Tensor, ordered: Tensor, zeros: int) -> Tensor:
    """The values of a codebook that some survivor takes."""
    counts = torch.zeros(len(book), dtype=torch.int64)
    for begin in range(0, len(ordered), _CHUNK):
        counts += torch.bincount(nearest(book, ordered[begin : begin + _CHUNK]), minlength=len(book))
    if zeros:
        counts += torch.bincount(nearest(book, torch.zeros(1)), minlength=len(book))
    return book[counts > 0]
