"""Which of two ways is faster here: timed side by side until the order is certain, or said to be open."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import Any

_FEWEST, _MOST = 5, 200  # rounds
_SAMPLE = 0.002  # seconds of a turn: a short call is repeated, with its own data in the caches as in a loop of its own


@dataclass(frozen=True)
class Verdict:
    """Two ways of computing the same, timed in turns.

    Attributes:
        first, second: median seconds of a call of each.
        ratio: median of second / first, turn by turn: what a busy moment of the machine hits alike.
        spread: half the width of the ratio's interval of confidence, about 95 %, as a share of the ratio.
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

    Each is called twice before, untimed.
    """
    ways = (first, second)
    repeats = [_repeats(way) for way in ways]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while True:
        turn = len(times[0])
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            times[which].append(_turn(ways[which], repeats[which]))
        verdict = _verdict(times)
        enough = turn + 1 >= _FEWEST and verdict.certain
        if enough or turn + 1 >= _MOST or (time.perf_counter() > end and turn + 1 >= _FEWEST):
            return verdict


def _verdict(times: tuple[list[float], list[float]]) -> Verdict:
    logs = [math.log(b / a) for a, b in zip(*times, strict=True)]
    middle = median(logs)
    # 1.48 · MAD stands for the standard deviation; of a median's it is 1.25 / √n of that, and 2 of them are 95 %.
    deviation = 1.48 * median(abs(log - middle) for log in logs)
    spread = math.expm1(min(5.0, 2 * 1.25 * deviation / math.sqrt(len(logs)) + 0.01 / len(logs)))
    return Verdict(median(times[0]), median(times[1]), math.exp(middle), spread, date.today().isoformat())


def _turn(way: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        way()
    return max(time.perf_counter() - start, 1e-9) / repeats


def _repeats(way: Callable[[], object]) -> int:
    way()
    return max(1, min(1000, int(_SAMPLE / _turn(way, 1))))
