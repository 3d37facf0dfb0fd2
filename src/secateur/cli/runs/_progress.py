"""Progress on stderr: bars on a terminal, elsewhere a plain sentence now and then; and what else takes its time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from secateur.cli.text import console
from secateur.lab.running import Progress

OnProgress = Callable[[Progress], None]

#: Seconds until the first plain sentence, and between two.
FIRST, EVERY = 10.0, 30.0


@contextmanager
def bars(total_runs: int, *, quiet: bool) -> Iterator[OnProgress | None]:
    """Show on stderr how runs go while the block runs; yield what the lab calls, None where nothing is shown.

    On a terminal with rich there is a bar per run, elsewhere a sentence now and then. Nothing is shown when `quiet`.
    """
    if quiet:
        yield None
        return
    drawn = _drawn()
    if drawn is None:
        yield _sentences()
        return
    with drawn:
        overall = drawn.add_task("runs", total=total_runs, facts="") if total_runs > 1 else None
        tasks: dict[str, int] = {}

        def on_progress(news: Progress) -> None:
            name = news.experiment.name
            if name not in tasks:
                tasks[name] = drawn.add_task(_label(news), total=news.steps, facts=news.stage)
            task = tasks[name]  # type: ignore[assignment]
            drawn.update(task, completed=news.step, facts=_facts(news))  # type: ignore[arg-type]
            if news.stage == "done":
                drawn.update(task, visible=total_runs == 1)  # type: ignore[arg-type]
                if overall is not None:
                    drawn.advance(overall)

        yield on_progress


@contextmanager
def busy(what: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on stderr that something takes its time while the block runs; yield what changes the words."""
    drawn = None if quiet else _drawn()
    if quiet:
        yield lambda words: None
    elif drawn is not None:
        with drawn:
            task = drawn.add_task(what, total=None, facts="")
            yield lambda words: drawn.update(task, description=words)
    else:
        words, done = [what], threading.Event()
        teller = threading.Thread(target=_repeat, args=(words, done), daemon=True)
        teller.start()
        try:
            yield lambda new: words.__setitem__(0, new)
        finally:
            done.set()


def _drawn() -> Any:
    """Return bars to draw; None without a terminal or rich."""
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ImportError:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    return Bars(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)


def _sentences() -> OnProgress:
    """Return what says how a run goes, but not more often than a log can bear."""
    due = time.monotonic() + FIRST

    def on_progress(news: Progress) -> None:
        nonlocal due
        if news.stage != "done" and time.monotonic() >= due:
            due = time.monotonic() + EVERY
            console.remark(f"{_label(news)}: step {news.step:,} of {news.steps:,}  {_facts(news)}")

    return on_progress


def _repeat(words: list[str], done: threading.Event) -> None:
    """Say the present words until `done`."""
    began, wait = time.monotonic(), FIRST
    while not done.wait(wait):
        console.remark(f"{words[0]}: {console.duration(time.monotonic() - began)} so far")
        wait = EVERY


def _label(news: Progress) -> str:
    return f"{news.experiment.method} · seed {news.experiment.seed}"


def _facts(news: Progress) -> str:
    if news.loss is None:
        return news.stage
    words = [f"loss {news.loss:.3f}"] if news.stage == "train" else [news.stage, f"loss {news.loss:.3f}"]
    if news.error is not None:
        words.append(f"error {news.error:.2%}".replace("%", " %"))
    if news.density is not None:
        words.append(f"{news.density * 100:.3g} % kept")
    return "  ".join(words)
