"""What a pruned and quantised network takes by the paper's own stages: gaps, codes, and Huffman's code for both."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Size:
    """Bytes of a network: dense in float32, and by each stage, everything counted.

    Args:
        dense: weights and biases as they were.
        pruned: survivors in float32, and gaps of so many bits.
        quantised: codes and gaps of so many bits, and codebooks.
        coded: Huffman's codes for both, their tables (8 bits for each symbol's length), and codebooks.
    """

    dense: float
    pruned: float
    quantised: float
    coded: float


def gaps(kept: Iterable[int], bits: int) -> list[int]:
    """Return the distances from one kept place to the next; where one is above 2^bits, fillers of that distance.

    A gap g is stored as g − 1, and a filler is a weight that is kept although it is zero.

    >>> gaps([0, 1, 9], bits=2)
    [1, 1, 4, 4]
    >>> gaps([0, 1, 10], bits=2)
    [1, 1, 4, 4, 1]
    """
    found, last, most = [], -1, 1 << bits
    for place in kept:
        fillers, rest = divmod(place - last - 1, most)
        found += [most] * fillers + [rest + 1]
        last = place
    return found


def huffman(counts: Iterable[int]) -> int:
    """Return how many bits all symbols together take by Huffman's code; a lone symbol takes one bit each time.

    >>> huffman([5, 1, 1]), huffman([7]), huffman([])
    (9, 7, 0)
    """
    heap = [count for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def size_of(weights: Iterable[Tensor], biases: int, *, code_bits: int, gap_bits: int = 5) -> Size:
    """Return the bytes of a network whose weights hold few values besides zero.

    Args:
        weights: one tensor for each layer.
        biases: how many numbers there are besides, in float32 at all stages.
        code_bits: of an index into the codebook.
        gap_bits: of a gap.
    """
    dense = pruned = quantised = coded = 32.0 * biases
    for weight in weights:
        flat = weight.detach().flatten()
        distances = gaps(flat.nonzero().flatten().tolist(), gap_bits)
        values = Counter(flat[flat != 0].tolist())
        fillers = len(distances) - values.total()
        codebook = 32 * len(values)
        dense += 32 * flat.numel()
        pruned += len(distances) * (32 + gap_bits)
        quantised += len(distances) * (code_bits + gap_bits) + codebook
        codes, jumps = [*values.values(), fillers], Counter(distances)
        tables = 8 * (len(values) + bool(fillers) + len(jumps))
        coded += huffman(codes) + huffman(jumps.values()) + tables + codebook
    return Size(dense / 8, pruned / 8, quantised / 8, coded / 8)
