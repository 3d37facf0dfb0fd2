"""How many threads a call should take: found on the calls themselves, since a training step cannot be tried twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from secateur._base.recent import remember
from secateur.turns import verdict_of

_BLOCK = 4  # calls in a row with one number of threads; the first finds the caches as the other number left them
_FEWEST, _MOST = 8, 40  # turns of two blocks; the verdict needs four groups of them
_AT_ONCE, _CLEAR = 2, 1.3  # turns after which it is decided if each block of one took that many times as long
_LONG = 0.005  # seconds of a call: threads meet some dozens of times in it, for microseconds each
_KINDS = 16  # of calls that are remembered

Result = TypeVar("Result")

clock: Callable[[], float] = time.perf_counter


class Pace:
    """The number of threads for calls of one kind, which must compute the same bits with any.

    The calls alternate between `threads` and half as many, in blocks A B, B A, …, until it is certain which are
    faster (`Verdict.certain`). If half as many are, a quarter is tried next; in doubt it is the larger number. Long
    calls are not tried with fewer: after the first block they keep all threads.

    >>> pace = Pace(1)
    >>> pace.settled, pace.threads
    (True, 1)
    """

    def __init__(self, most: int) -> None:
        self.threads, self.settled = most, most < 2
        self._begin()

    def _begin(self) -> None:
        self._calls = 0
        self._block: list[float] = []
        self._times: tuple[list[float], list[float]] = ([], [])

    def next(self) -> int:
        """Return how many threads the next call should take."""
        if self.settled:
            return self.threads
        turn, block = divmod(self._calls // _BLOCK, 2)
        return self.threads // 2 if block ^ (turn % 2) else self.threads

    def took(self, threads: int, seconds: float) -> None:
        """Learn how long a call with so many threads took."""
        if self.settled or threads not in (self.threads, self.threads // 2):
            return  # another Python thread's call has settled it meanwhile
        self._calls += 1
        turn, within = divmod(self._calls - 1, 2 * _BLOCK)
        if within % _BLOCK:
            self._block.append(seconds)
        if within % _BLOCK == _BLOCK - 1:
            best, self._block = min(self._block, default=0.0), []
            if turn:  # the first one only warms up, and tells how long calls are
                self._times[threads != self.threads].append(best)
            elif within < _BLOCK and best > _LONG:
                self.settled = True
        if turn and within == 2 * _BLOCK - 1:
            self._judge()

    def _judge(self) -> None:
        full, half = self._times
        if not full or len(full) != len(half):
            self._begin()  # two Python threads at once: their blocks are mixed up
        elif len(full) >= _AT_ONCE and min(half) > _CLEAR * max(full):
            self.settled = True
        elif len(full) >= _AT_ONCE and min(full) > _CLEAR * max(half):
            self._halve()
        elif len(full) >= _FEWEST:
            verdict = verdict_of(self._times)
            if verdict.second_is_faster:
                self._halve()
            elif verdict.certain or len(full) >= _MOST:
                self.settled = True

    def _halve(self) -> None:
        self.threads //= 2
        self.settled = self.threads < 2
        self._begin()


class Paces:
    """The paces of several kinds of calls, by a key of whatever tells them apart.

    The number of threads that torch has must be in the key, so that `torch.set_num_threads` begins anew.

    Attributes:
        settled: the numbers of threads that are decided, by key: looked at before each call, which takes microseconds.
    """

    def __init__(self) -> None:
        self.settled: dict[Hashable, int] = {}
        self._paces: dict[Hashable, Pace] = {}

    def run(self, key: Hashable, worth: Callable[[], int], call: Callable[[int], Result]) -> Result:
        """Call with the number of threads that the pace of this key wants, and let it know how long that took.

        Args:
            key: of the kind of call.
            worth: tells how many threads the work is worth at most; asked for a new key.
            call: given the number of threads; its results are the same with any.
        """
        pace = self._paces.get(key)
        if pace is None:
            pace = remember(self._paces, key, Pace(worth()), most=_KINDS)
        threads, start = pace.next(), clock()
        result = call(threads)
        pace.took(threads, clock() - start)
        if pace.settled:
            remember(self.settled, key, pace.threads, most=_KINDS)
        return result
