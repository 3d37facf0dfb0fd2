"""Timing of alternatives against one another: interleaved, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["interleaved"]


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    rounds: tuple[int, int] = (5, 1000),
    sample: float = 0.002,
    statistic: Callable[[list[float]], float] = median,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time candidates in rounds A B C, A B C, … and return the seconds that one call of each takes.

    Args:
        candidates: name → what to time, called twice before, untimed.
        seconds: about how long all of it may take; a round under way is finished.
        rounds: at least and at most so many rounds, whatever the time.
        sample: a candidate is called several times in its turn until about this many seconds have passed, so
            that a short one is measured with its own data in the caches, as in a loop of its own.
        statistic: what to make of a candidate's samples: the median, or `min` where other processes disturb.
        clock: what tells the time; `time.thread_time` counts this thread's own, for one-threaded candidates on a
            machine that others use.

    >>> sorted(interleaved({"a": lambda: None, "b": lambda: None}, seconds=0.01))
    ['a', 'b']
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    repeats = {name: _repeats(candidate, sample, clock) for name, candidate in candidates.items()}
    began, done = time.perf_counter(), 0
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - began < seconds):
        for name, candidate in candidates.items():
            start = clock()
            for _ in range(repeats[name]):
                candidate()
            times[name].append((clock() - start) / repeats[name])
        done += 1
    return {name: statistic(found) for name, found in times.items()}


def _repeats(candidate: Callable[[], object], sample: float, clock: Callable[[], float]) -> int:
    candidate()
    start = clock()
    candidate()
    return max(1, min(1000, int(sample / max(clock() - start, 1e-7))))
