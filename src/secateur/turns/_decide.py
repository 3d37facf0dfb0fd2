"""Which of two ways is faster here: timed side by side until the order is certain, or said to be open."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import Any

import torch

_GROUPS = 4  # of turns, each with a ratio of its own, whose range says how far the ratio can be trusted
_MOST = 200  # turns
_LONG, _CLEAR = 0.3, 3.0  # seconds of one call; times as long
_SAMPLE = 0.002  # seconds of a turn: a short call is repeated, with its own data in the caches as in a loop of its own


@dataclass(frozen=True)
class Verdict:
    """Two ways of computing the same, timed in turns.

    Attributes:
        first, second: seconds of a call of each, at best: what other processes take is not theirs.
        ratio: second / first, the median over groups of turns of the ratio of their best times.
        spread: how far the groups' ratios lie from that at most, as a share of it.
        day: when it was measured, as 2026-11-30.
    """

    first: float
    second: float
    ratio: float
    spread: float
    day: str

    @property
    def second_is_faster(self) -> bool:
        """Whether the second way is faster for certain."""
        return self.ratio * (1 + self.spread) < 1

    @property
    def certain(self) -> bool:
        """Whether the order is beyond the noise of the measurement."""
        return self.second_is_faster or self.ratio * (1 - self.spread) > 1

    def as_json(self) -> dict[str, Any]:
        """Return what `of_json` takes."""
        return asdict(self)

    @staticmethod
    def of_json(found: Any) -> Verdict:
        """Read a verdict; KeyError, TypeError or ValueError where it is none."""
        verdict = Verdict(**found)
        numbers = (verdict.first, verdict.second, verdict.ratio, verdict.spread)
        if not all(isinstance(n, float) and math.isfinite(n) and n >= 0 for n in numbers) or not verdict.first:
            raise ValueError(f"no verdict: {found}")
        return verdict


def decide(first: Callable[[], object], second: Callable[[], object], *, seconds: float = 0.3) -> Verdict:
    """Time two ways in turns A B, B A, A B, … until it is certain which is faster, or `seconds` have passed.

    Each is called twice before; if the second calls are long and far apart, that is the verdict.
    """
    ways = (first, second)
    once = [_once(way) for way in ways]
    if max(once) > _LONG and max(once) > _CLEAR * min(once):  # nobody waits for what one look has told
        return Verdict(once[0], once[1], once[1] / once[0], 0.5, date.today().isoformat())
    repeats = [max(1, min(1000, int(_SAMPLE / spent))) for spent in once]
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    while True:
        turn = len(times[0])
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            times[which].append(_turn(ways[which], repeats[which]))
        verdict, spent = verdict_of(times), time.perf_counter() - begin
        fewest = _fewest(spent / (turn + 1))
        if turn + 1 >= fewest and (verdict.certain or turn + 1 >= _MOST or spent > seconds):
            return verdict


def _fewest(turn: float) -> int:
    """How many turns there must be at least: the longer one takes, the less it is disturbed by a moment's noise."""
    if turn > 1:
        return 2
    return _GROUPS if turn > 0.1 else 2 * _GROUPS


def verdict_of(times: tuple[list[float], list[float]]) -> Verdict:
    """Judge two ways by the seconds of their turns, equally many of each."""
    groups = [(min(times[0][g::_GROUPS]), min(times[1][g::_GROUPS])) for g in range(min(_GROUPS, len(times[0])))]
    ratios = [second / first for first, second in groups]
    middle = median(ratios)
    spread = max(abs(ratio - middle) for ratio in ratios) / middle
    return Verdict(min(times[0]), min(times[1]), middle, spread, date.today().isoformat())


def _turn(way: Callable[[], object], repeats: int) -> float:
    # One thread's own time does not run on while other processes have the core; several threads have no such clock.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        way()
    return max(clock() - start, 1e-9) / repeats


def _once(way: Callable[[], object]) -> float:
    way()
    return _turn(way, 1)
