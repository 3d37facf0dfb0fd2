"""Caches that forget: what is made anew for each shape of an input must not pile up over thousands of shapes."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(cache: dict[Key, Value], key: Key, value: Value, *, most: int) -> Value:
    """Put a value into a cache that keeps the `most` entries made last, and return it.

    Safe on several threads: two that miss the same key both make it, and one of the two is kept.

    >>> squares: dict[int, int] = {}
    >>> [remember(squares, n, n * n, most=2) for n in (1, 2, 3)], squares
    ([1, 4, 9], {2: 4, 3: 9})
    """
    for old in list(cache)[: max(0, len(cache) - most + 1)]:
        cache.pop(old, None)
    cache[key] = value
    return value
