"""What it costs a compiled step that its masks change: RigL's rate of steps over that of static masks.

    python benchmarks/changing_masks.py [--quick] [--json FILE] [--threads N] [--seconds S] [--own-time]

For each network, in one run and interleaved: a step under SNIP's masks, which stay; one under RigL's, whose masks a
Pruner changes every 100 steps (all of which is counted); and one under the masks of RigL's start, which stay, so that
what its other densities of layers cost can be told from what the changes cost. A turn of RigL's is 100 steps with one
change among them. SGD with momentum; 95 % sparse. Figures are medians over the turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean, median

import torch
from _common import add_own_time, clock_of, options, settle, sgd, where, write
from sparse_training import NETS, Net, images
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur._base import door
from secateur.sparse import compile_step

DENSITY, EVERY = 0.05, 100
Clock = Callable[[], float]
TARGETS = {"LeNet-300-100": 0.80, "MLP-4096": 0.70}
TURNS = 3  # at least
SHARE = 0.05  # of the time of the steps between two changes: what it may cost to take up new masks


@dataclass(frozen=True)
class Result:
    """Median seconds, of one step where nothing else is said."""

    net: str
    batch: int
    static: float
    start: float
    rigl: float
    change: float  # all that a change takes, beside the steps
    taking_up: float  # of it: to take up the new masks, and what the first step under them takes over others

    @property
    def rate(self) -> float:
        """Steps a second under RigL over those under static masks."""
        return self.static / self.rigl

    def line(self) -> str:
        """Format a row of the table."""
        between = EVERY * self.static
        times = f"{1e3 * self.static:.3f} | {1e3 * self.start:.3f} | {1e3 * self.rigl:.3f}"
        rates = f"{self.rate:.2f} (≥ {TARGETS[self.net]:.2f}) | {self.start / self.rigl:.2f}"
        shares = f"{self.change / between:.1%} | {self.taking_up / between:.1%} (< {SHARE:.0%})"
        return f"| {self.net}, batch {self.batch} | {times} | {rates} | {shares} |"


class Timed:
    """A function that adds up the time it takes."""

    def __init__(self, call: Callable[[], None], clock: Clock) -> None:
        self._call, self._clock, self.seconds = call, clock, 0.0

    def __call__(self) -> None:
        """Call it."""
        begin = self._clock()
        self._call()
        self.seconds += self._clock() - begin


def times_of(step: Callable[[], object], clock: Clock) -> list[float]:
    """Return the seconds of each of the steps from one change to the next."""
    found = []
    for _ in range(EVERY):
        begin = clock()
        step()
        found.append(clock() - begin)
    return found


def measure(net: Net, seconds: float, clock: Clock) -> Result:
    """Measure everything for one network."""
    x, y, _ = images(net.batch)
    base, first, model = net.build(), net.build(), net.build()
    masks = sc.prune(base, sc.methods.snip(density=DENSITY), batches=[(x, y)])
    plan = sc.methods.rigl(density=DENSITY, until=10**5, every=EVERY)
    pruner = sc.Pruner(model, plan, generator=torch.Generator().manual_seed(0))
    static = compile_step(base, masks, cross_entropy, sgd(base))
    start = compile_step(first, pruner.masks, cross_entropy, sgd(first))
    rigl = compile_step(model, pruner.masks, cross_entropy, sgd(model))
    taking_up = rigl.follow = Timed(rigl.follow, clock)  # type: ignore[method-assign]
    settle(lambda: static(x, y), lambda: start(x, y), lambda: rigl(x, y))
    while pruner.step % EVERY:
        rigl(x, y)
    found: dict[str, list[float]] = {name: [] for name in ("static", "start", "rigl", "change", "taking_up")}
    begin = time.perf_counter()
    while len(found["rigl"]) < TURNS or time.perf_counter() - begin < seconds:
        found["static"].append(fmean(times_of(lambda: static(x, y), clock)))
        found["start"].append(fmean(times_of(lambda: start(x, y), clock)))
        taking_up.seconds, before = 0.0, pruner.masks
        times = times_of(lambda: rigl(x, y), clock)
        if pruner.masks == before:
            raise AssertionError("the masks did not change")
        plain = median(times)
        found["rigl"].append(fmean(times))
        found["change"].append(times[-1] - plain + times[0] - plain)  # the first step under new masks prepares itself
        found["taking_up"].append(taking_up.seconds + times[0] - plain)
    return Result(net.name, net.batch, **{name: median(each) for name, each in found.items()})


def table(results: list[Result]) -> str:
    """Show what was measured, beside the targets."""
    columns = (
        "network", "static SNIP [ms]", "static, RigL's start [ms]", "RigL [ms]", "rate over SNIP (target)",
        "over its start", "a change, of the steps between two", "of it taking up masks (target)",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) - 1)]
    return "\n".join([*lines, *[result.line() for result in results]])


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = options(__doc__, quick="LeNet-300-100 only, two seconds")
    add_own_time(parser)
    args = parser.parse_args()
    clock = clock_of(parser, args)
    torch.set_num_threads(args.threads)
    nets, seconds = (NETS[:1], 2.0) if args.quick else (NETS, args.seconds)
    results = [measure(net, seconds, clock) for net in nets]
    print(f"{where(args)}, kernels: {door.isa()}; {1 - DENSITY:.0%} sparse, a change every {EVERY} steps\n")
    print(table(results))
    write(args, results=[asdict(result) for result in results])


if __name__ == "__main__":
    main()
