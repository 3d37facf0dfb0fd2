"""Errors over densities: a line per method, with the spread over its seeds."""

from __future__ import annotations

from pathlib import Path

from secateur._base.errors import SecateurError
from secateur.lab.comparing import Comparison, Row, deviation
from secateur.lab.experiment import DENSE
from secateur.lab.paper import canvas, save_figure


def plot(comparison: Comparison, path: Path) -> None:
    """Draw the test error after the last step over the density, mean ± standard deviation over the seeds.

    Raises:
        SecateurError: nothing has finished, or the folder does not exist.
    """
    if not comparison.rows:
        raise SecateurError("there is nothing to plot: no run has finished.")
    if not path.parent.is_dir():
        raise SecateurError(f"--plot {path} must lie in a folder that exists: make {path.parent} first.")
    lines: dict[str, list[Row]] = {}
    for row in comparison.rows:
        lines.setdefault(row.experiment.method, []).append(row)
    figure, (axes,) = canvas(1, 1, width=5.5, height=4.0)
    for method, found in lines.items():
        means = [100 * row.mean_of(lambda result: result.test_error) for row in found]
        if method == DENSE:
            axes.axhline(means[0], color="0.5", linestyle="--", label=DENSE)
            continue
        densities = [100 * row.mean_of(lambda result: result.facts["density"]) for row in found]
        spread = [100 * (deviation(row.errors()) or 0.0) for row in found]
        order = sorted(range(len(found)), key=densities.__getitem__)
        axes.errorbar(
            [densities[i] for i in order], [means[i] for i in order], [spread[i] for i in order], marker="o",
            capsize=3, label=method,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("weights kept [%]")
    axes.set_ylabel("test error [%]")
    axes.legend()
    first = comparison.rows[0].experiment
    axes.set_title(f"{first.model} on {first.data}", fontsize="medium")
    save_figure(figure, path)
