"""Progress on a terminal: a bar per run with loss, error, density and remaining time; quiet elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secateur.lab.running import Progress

OnProgress = Callable[[Progress], None]


@contextmanager
def bars(total_runs: int, *, quiet: bool) -> Iterator[OnProgress | None]:
    """Draw bars on stderr while the block runs; yield what the lab calls, None where nothing is drawn.

    Nothing is drawn when `quiet`, when stderr is not a terminal, or without rich.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as drawn:
        overall = drawn.add_task("runs", total=total_runs, facts="") if total_runs > 1 else None
        tasks: dict[str, int] = {}

        def on_progress(news: Progress) -> None:
            name = news.experiment.name
            if name not in tasks:
                label = f"{news.experiment.method} · seed {news.experiment.seed}"
                tasks[name] = drawn.add_task(label, total=news.steps, facts=news.stage)
            task = tasks[name]  # type: ignore[assignment]
            drawn.update(task, completed=news.step, facts=_facts(news))  # type: ignore[arg-type]
            if news.stage == "done":
                drawn.update(task, visible=total_runs == 1)  # type: ignore[arg-type]
                if overall is not None:
                    drawn.advance(overall)

        yield on_progress


def _facts(news: Progress) -> str:
    if news.loss is None:
        return news.stage
    words = [f"loss {news.loss:.3f}"]
    if news.error is not None:
        words.append(f"error {news.error:.2%}".replace("%", " %"))
    if news.density is not None:
        words.append(f"{news.density * 100:.3g} % kept")
    return "  ".join(words)
