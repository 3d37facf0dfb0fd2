"""Radix selection's passes over many tensors: count one digit of the scores, then write the masks.

Scores are compared by an unsigned integer key in the order of the numbers (-0.0 and +0.0 share one key),
read in digits of 16 bits: two for float32, four for float64. Each pass reads the scores where they lie: in
the compiled kernels for tensors on the CPU, in torch operations over parts of fixed size elsewhere. Both
give the same bits. Where all scores lie in the CPU's memory and few tie, the kernels do it in one pass.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secateur._base import door

DIGIT_BITS = 16
DIGITS = 1 << DIGIT_BITS

# Tables of 65,536 numbers are numpy's: torch would wake all of its threads for each sum over one.
Counts = npt.NDArray[np.int64]

# Scores per part where a pass needs temporaries (torch passes, conversions, strided tensors). This bounds the
# memory that a selection takes, however many scores there are. On a CPU a part should stay in the cache; an
# accelerator wants more work at a time.
PART = 1 << 20
_ACCELERATOR_PARTS = 16

# A thread for fewer scores than this costs more (its own row of counts) than it saves.
_SCORES_PER_THREAD = 1 << 20

_FORMATS = {torch.float32: "=f", torch.float64: "=d"}
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_NARROW_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16}


def key_dtype(scores: Iterable[Tensor]) -> torch.dtype:
    """The narrower of float32 and float64 that holds every value of all `scores` exactly."""
    for tensor in scores:
        narrow_float = tensor.dtype.is_floating_point and tensor.dtype.itemsize <= 4
        if not (narrow_float or tensor.dtype in _NARROW_INTEGERS):
            return torch.float64
    return torch.float32


def key_bits(dtype: torch.dtype) -> int:
    """Bits in the key of a score of this dtype."""
    return dtype.itemsize * 8


def shifts(dtype: torch.dtype) -> range:
    """Where the digits of a key lie, most significant first: the passes of a selection."""
    return range(key_bits(dtype) - DIGIT_BITS, -1, -DIGIT_BITS)


def parts(scores: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The scores in index order as flat, contiguous tensors of `dtype` and of bounded size (see `PART`).

    Only what is not contiguous or not `dtype` already is copied, one part at a time.
    """
    scores = scores.detach().resolve_neg()
    most = PART * (1 if scores.device.type == "cpu" else _ACCELERATOR_PARTS)
    if scores.is_contiguous():
        yield from (part.to(dtype) for part in scores.view(-1).split(most))
    elif scores.numel() <= most:
        yield scores.contiguous().view(-1).to(dtype)
    elif scores.shape[0] == 1:
        yield from parts(scores[0], dtype)
    else:
        rows = max(1, most * scores.shape[0] // scores.numel())
        for block in scores.split(rows):
            yield from parts(block, dtype)


def count_digits(scores: Iterable[Tensor], dtype: torch.dtype, *, shift: int, prefix: int) -> Counts:
    """Count the values of the digit at bit `shift` among the scores whose higher digits are `prefix`.

    Returns:
        Counts by digit; the scores may lie on several devices.
    """
    tensors = [tensor.detach() for tensor in scores if tensor.numel()]
    here = [tensor for tensor in tensors if in_place(tensor, dtype)]
    elsewhere = [tensor for tensor in tensors if not in_place(tensor, dtype)]
    counts = np.zeros((_threads_for(here), DIGITS), dtype=np.int64)
    if here:
        _count_natively(here, shift, prefix, counts)
    for tensor in elsewhere:
        for part in parts(tensor, dtype):
            if in_place(part, dtype):
                _count_natively([part], shift, prefix, counts)
            else:
                digits, _ = matching_digits(part, shift, prefix)
                counts[0] += torch.bincount(digits, minlength=DIGITS).cpu().numpy()
    return counts.sum(axis=0)


def fill_masks(scores: Sequence[Tensor], threshold: int, keep_ties: int, masks: Sequence[Tensor]) -> int:
    """Write `mask = key > threshold`, and True for the first `keep_ties` keys equal to it; count the equal.

    Args:
        scores: tensors that lie `in_place`, or one of the `parts`.
        masks: the result: contiguous boolean tensors of the same sizes, written.
    """
    dtype = scores[0].dtype
    if (native := door.native) is not None and all(in_place(tensor, dtype) for tensor in scores):
        return native.fill_masks(
            *_where(scores), dtype.itemsize, threshold, keep_ties, *_where(masks), _threads_for(scores)
        )
    found = 0
    for part, mask in zip(scores, masks, strict=True):
        found += _fill_part(part, threshold, max(0, keep_ties - found), mask)
    return found


def topk(scores: Sequence[Tensor], keep: int, masks: Sequence[Tensor]) -> int | None:
    """Write the masks of the `keep` highest scores in one pass; return the key of the last one kept.

    None: nothing is decided, since many scores tie or one is not finite, and the masks hold anything.

    Args:
        scores: tensors that lie `in_place`.
        keep: how many stay, at least one.
        masks: the result: contiguous boolean tensors of the same sizes, written.
    """
    assert door.native is not None
    bytes_each, threads = scores[0].dtype.itemsize, _threads_for(scores)
    decided, key = door.native.topk(*_where(scores), bytes_each, keep, *_where(masks), threads)
    return key if decided else None


def in_place(scores: Tensor, dtype: torch.dtype) -> bool:
    """Whether the compiled kernels can read this tensor where it lies, as scores of `dtype`."""
    on_cpu = door.native is not None and scores.device.type == "cpu"
    return on_cpu and scores.dtype == dtype and scores.is_contiguous() and not scores.is_neg()


def _count_natively(scores: Sequence[Tensor], shift: int, prefix: int, counts: Counts) -> None:
    assert door.native is not None
    door.native.count_digits(*_where(scores), scores[0].dtype.itemsize, shift, prefix, counts)


def _fill_part(scores: Tensor, threshold: int, keep_ties: int, mask: Tensor) -> int:
    keys = signed_keys(scores)
    signed_threshold = signed(threshold, scores.dtype)
    torch.gt(keys, signed_threshold, out=mask)
    ties = keys == signed_threshold
    found = int(ties.sum())
    if found > keep_ties:
        ties &= ties.cumsum(0) <= keep_ties
    mask |= ties
    return found


def _where(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    return [tensor.data_ptr() for tensor in tensors], [tensor.numel() for tensor in tensors]


def signed_keys(scores: Tensor) -> Tensor:
    """Integers in the order of the scores: keys less half of their range, as torch compares signed ones."""
    bits = scores.view(_INTEGERS[scores.dtype])
    limits = torch.iinfo(bits.dtype)
    keys = torch.where(bits == limits.min, 0, bits)  # -0.0 ties with +0.0
    # A negative number is stored as sign and magnitude: flipping the magnitude turns their order round.
    return keys ^ ((keys >> (limits.bits - 1)) & limits.max)


def signed(key: int, dtype: torch.dtype) -> int:
    """The unsigned key as it stands among `signed_keys`."""
    return key - (1 << (key_bits(dtype) - 1))


def value_of(key: int, dtype: torch.dtype) -> float:
    """The score of this key."""
    bits = key_bits(dtype)
    sign = 1 << (bits - 1)
    stored = key ^ sign if key & sign else key ^ ((1 << bits) - 1)
    return struct.unpack(_FORMATS[dtype], stored.to_bytes(bits // 8, sys.byteorder))[0]


def matching_digits(scores: Tensor, shift: int, prefix: int) -> tuple[Tensor, Tensor | None]:
    """The digit at bit `shift` of the keys whose higher digits are `prefix`, and where (None: all)."""
    keys = signed_keys(scores)
    bits = key_bits(scores.dtype)
    if shift + DIGIT_BITS == bits:
        return (keys >> shift) + (DIGITS >> 1), None
    signed_prefix = prefix - (1 << (bits - shift - DIGIT_BITS - 1))
    where = (keys >> (shift + DIGIT_BITS)) == signed_prefix
    return (keys[where] >> shift) & (DIGITS - 1), where


def _threads_for(tensors: Sequence[Tensor]) -> int:
    return min(torch.get_num_threads(), 1 + sum(tensor.numel() for tensor in tensors) // _SCORES_PER_THREAD)
