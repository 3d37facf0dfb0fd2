"""Parameters that lie in one memory without being one parameter: they cannot be counted, nor cut apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

__all__ = ["refuse_shared_memory"]


def refuse_shared_memory(wanted: Mapping[str, nn.Parameter], named: Mapping[str, nn.Parameter]) -> None:
    """Refuse parameters `wanted` that share memory with another of the model's `named` ones, or with themselves.

    One parameter under several names is tied, and as it should be; a view of another's memory (`b.data = a.data.t()`)
    is not.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> refuse_shared_memory({"a": a.weight}, {"a": a.weight, "b": b.weight})
    >>> b.weight.data = a.weight.data.t()
    >>> refuse_shared_memory({"a": a.weight}, {"a": a.weight, "b": b.weight})
    Traceback (most recent call last):
    secateur._base.errors.SecateurError: 'a' and 'b' are two parameters in one memory, ...
    """
    for name, parameter in wanted.items():
        if _plain(parameter) and _overlaps_itself(parameter):
            raise SecateurError(
                f"several entries of {name!r} are one number in memory (it was expanded): they cannot be pruned one by "
                "one. Give each its own: parameter.data = parameter.data.contiguous()."
            )
    chosen = {id(parameter) for parameter in wanted.values()}
    before: list[tuple[str, int, str]] = []  # those that begin earlier and reach further: device, end, name
    for device, begin, end, name in sorted((str(p.device), *_span(p), n) for n, p in named.items() if _plain(p)):
        before = [each for each in before if each[0] == device and each[1] > begin]
        for _, _, other in before:
            one, two = named[other], named[name]
            if one is not two and {id(one), id(two)} & chosen and _overlap(one, two):
                raise SecateurError(_text(other, name))
        before.append((device, end, name))


def _text(one: str, two: str) -> str:
    return (
        f"{one!r} and {two!r} are two parameters in one memory, as after `b.data = a.data.t()`: a zero in one is a "
        "zero in the other, and weights would be counted twice. Make them one parameter (b.weight = a.weight), or give "
        "one of them memory of its own: parameter.data = parameter.data.clone()."
    )


def _plain(parameter: Tensor) -> bool:
    """Whether the parameter is memory that can be looked at: no shard, no stand-in, no other layout."""
    known = type(parameter) in (Tensor, nn.Parameter) and parameter.layout is torch.strided
    return known and not parameter.is_meta and parameter.numel() > 0


def _entries(tensor: Tensor) -> int:
    """Return how many entries lie between the first and the last, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _span(tensor: Tensor) -> tuple[int, int]:
    begin = tensor.data_ptr()
    return begin, begin + _entries(tensor) * tensor.itemsize


def _overlaps_itself(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and int(_marks(tensor, 0, _entries(tensor)).count_nonzero()) < tensor.numel()


def _overlap(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors whose spans overlap have an entry in common: columns of one matrix need not."""
    first = min(one.data_ptr(), two.data_ptr())
    starts = [(tensor.data_ptr() - first) / one.itemsize for tensor in (one, two)]
    if one.itemsize != two.itemsize or any(start % 1 for start in starts):
        return True
    places = [int(start) for start in starts]
    size = max(place + _entries(tensor) for place, tensor in zip(places, (one, two), strict=True))
    return bool((_marks(one, places[0], size) & _marks(two, places[1], size)).any())


def _marks(tensor: Tensor, start: int, size: int) -> Tensor:
    """Return which of `size` places of memory the tensor occupies, beginning at `start`."""
    marks = torch.zeros(size, dtype=torch.bool, device="cpu")
    marks.as_strided(tensor.shape, tensor.stride(), start).fill_(True)
    return marks
