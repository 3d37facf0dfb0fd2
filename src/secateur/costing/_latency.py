"""How long a forward takes here, as a whole and layer by layer, measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from secateur.costing._call import Call, on_device
from secateur.turns import interleaved, undisturbed

__all__ = ["Latency", "clock_of", "forward", "latency", "layer_latencies", "milliseconds", "serving"]

_ROUNDS = (5, 200)


@dataclass(frozen=True)
class Latency:
    """Measured seconds of one forward.

    Attributes:
        seconds: the median.
        spread: how far half of the measurements lie from it at most, as a share of it.
        runs: how many there were.
    """

    seconds: float
    spread: float
    runs: int

    @staticmethod
    def of(times: Sequence[float]) -> Latency:
        """Sum up measurements, two or more."""
        low, middle, high = quantiles(times, n=4)
        return Latency(middle, max(high - middle, middle - low) / middle, len(times))

    def __str__(self) -> str:
        return f"{milliseconds(self.seconds)} ms ± {self.spread:.0%} ({self.runs} runs)"


def milliseconds(seconds: float) -> str:
    """Say seconds as milliseconds, in three digits.

    >>> milliseconds(0.0012345), milliseconds(2.5)
    ('1.23', '2,500')
    """
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:,.0f}"


@contextlib.contextmanager
def serving(*models: nn.Module) -> Iterator[None]:
    """Run models as they are served: in eval mode and without gradients; all is as before afterwards."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        with undisturbed(models), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def forward(model: nn.Module, call: Call) -> Callable[[], object]:
    """Return a function that runs the model once, and waits for the device that it runs on."""
    device = on_device(model)
    wait = torch.accelerator.synchronize if device.type not in ("cpu", "meta") else None

    def run() -> None:
        model(*call.inputs, **call.kwargs)
        if wait is not None:
            wait(device)

    return run


def latency(model: nn.Module, call: Call, seconds: float) -> Latency:
    """Time forwards for about so many seconds.

    Args:
        model: the model; it runs in eval mode, and is as before afterwards.
        call: example inputs.
        seconds: about how long all of it may take.
    """
    found: list[float] = []

    def keep(times: list[float]) -> float:
        found.extend(times)
        return median(times)

    with serving(model):
        interleaved({"": forward(model, call)}, seconds=seconds, rounds=_ROUNDS, statistic=keep, clock=clock_of(model))
    return Latency.of(found)


def clock_of(model: nn.Module) -> Callable[[], float]:
    """Return the clock for it: one thread's own time does not run on while other processes have the core."""
    alone = torch.get_num_threads() == 1 and on_device(model).type == "cpu"
    return time.thread_time if alone else time.perf_counter


def layer_latencies(model: nn.Module, call: Call, seconds: float) -> dict[str, float]:
    """Return the median seconds of each module, those of the modules inside of it not counted.

    Hooks take the time, which costs some microseconds for each module.

    Args:
        model: the model; hooks are put on it, and taken off again.
        call: example inputs.
        seconds: about how long all of it may take.
    """
    watch = _Watch(clock_of(model), forward(model, call))
    handles: list[Any] = []
    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(watch.enter(path)))
            handles.append(module.register_forward_hook(watch.leave, always_call=True))
        with serving(model):
            watch.runs(seconds)
    finally:
        for handle in handles:
            handle.remove()
    return {path: median(times) for path, times in watch.times.items()}


class _Watch:
    """Keeps the time of the innermost module that is running."""

    def __init__(self, clock: Callable[[], float], run: Callable[[], object]) -> None:
        self._clock, self._run = clock, run
        self._stack: list[str] = []
        self._since = 0.0
        self._round: dict[str, float] = {}
        self.times: dict[str, list[float]] = {}

    def enter(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._spend()
            self._stack.append(path)

        return hook

    def leave(self, module: nn.Module, inputs: Any, out: Any) -> None:
        self._spend()
        self._stack.pop()

    def _spend(self) -> None:
        now = self._clock()
        if self._stack:
            self._round[self._stack[-1]] = self._round.get(self._stack[-1], 0.0) + now - self._since
        self._since = self._clock()

    def runs(self, seconds: float) -> None:
        """Run once to warm up, and then in rounds."""
        self._run()
        began, done = time.perf_counter(), 0
        while done < _ROUNDS[0] or (done < _ROUNDS[1] and time.perf_counter() - began < seconds):
            self._round = {}
            self._run()
            for path, spent in self._round.items():
                self.times.setdefault(path, []).append(spent)
            done += 1
