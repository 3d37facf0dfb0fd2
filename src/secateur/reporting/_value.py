"""What a report says, as a value that prints as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secateur._base.files import write_whole
from secateur._base.text import shown
from secateur.masks import Masks, density_text
from secateur.reporting._page import page
from secateur.reporting._told import Curve, LayerTold, Pixels, Way

__all__ = ["Report"]

_HEADS = ("layer", "shape", "kept", "density", "MACs", "effective", "bytes", "kept", "dead", "eff. sparsity")


@dataclass(frozen=True, eq=False)
class Report:
    """What masks did to a model, layer by layer and measured; `print` it, or `save` it as a page.

    Attributes:
        model: name of the model's class.
        layers: one of each masked parameter.
        ways: dense, held, sparse and shrunk, in this order.
        masks: what stays.
        params: entries of all parameters of the model.
        macs: multiplications of one forward of the dense model.
        effective_macs: those with weights that stay.
        pixels: which pixels kept their connections; None where no masked linear layer is given
            the example's images, flattened.
        curves: how training went, as they were given.
    """

    model: str
    layers: tuple[LayerTold, ...]
    ways: tuple[Way, ...]
    masks: Masks = field(repr=False)
    params: int
    macs: int
    effective_macs: int
    pixels: Pixels | None = field(default=None, repr=False)
    curves: tuple[Curve, ...] = field(default=(), repr=False)

    @property
    def kept(self) -> int:
        """How many masked weights stay."""
        return sum(layer.kept for layer in self.layers)

    @property
    def numel(self) -> int:
        """How many weights are under masks."""
        return sum(layer.numel for layer in self.layers)

    @property
    def effective_sparsity(self) -> float | None:
        """The fraction of masked weights that are pruned or lie on no path; None where that is not known."""
        if any(layer.effective is None for layer in self.layers):
            return None
        return 1 - sum(layer.effective or 0 for layer in self.layers) / max(1, self.numel)

    @property
    def summary(self) -> str:
        """The totals in one line."""
        density = self.kept / max(1, self.numel)
        return f"{self.model}: {self.kept:,} of {self.numel:,} masked weights ({density_text(density)})"

    def rows(self) -> list[list[str]]:
        """Return the table of layers as text, its head first and the totals last."""
        total = ["total", "", f"{self.kept:,}", f"{self.kept / max(1, self.numel):.1%}", f"{self.macs:,}"]
        total += [f"{self.effective_macs:,}", f"{sum(each.bytes for each in self.layers):,}"]
        total += [f"{sum(each.bytes_kept for each in self.layers):,}", f"{sum(each.dead for each in self.layers):,}"]
        return [list(_HEADS), *map(_row, self.layers), [*total, _share(self.effective_sparsity)]]

    def __str__(self) -> str:
        lines = [self.summary, "", *_aligned(self.rows(), left=2), ""]
        return "\n".join([*lines, *_aligned(ways_of(self), left=1, right=2)])

    def save(self, path: str | Path) -> None:
        """Write the report as one HTML file that needs nothing else: it opens offline, on a phone or a desk.

        Args:
            path: of the file, `report.html` say; replaced in one step where it exists.
        """
        text = page(
            self.summary,
            self.layers,
            self.masks,
            tables=(self.rows(), ways_of(self)),
            ways=self.ways,
            pixels=self.pixels,
            curves=self.curves,
        )
        write_whole(Path(path), text.encode("utf-8"))


def ways_of(report: Report) -> list[list[str]]:
    """Return the table of measured ways as text, its head first."""
    rows = [["forward", "ms", "bytes", ""]]
    for way in report.ways:
        ms = "–" if way.latency is None else f"{way.latency.seconds * 1e3:.3g} ± {way.latency.spread:.0%}"
        rows.append([way.name, ms, f"{way.bytes:,}" if way.bytes else "–", way.said])
    return rows


def _row(layer: LayerTold) -> list[str]:
    macs, effective = ("–" if n is None else f"{n:,}" for n in (layer.macs, layer.effective_macs))
    shape = " × ".join(map(str, layer.shape))
    sizes = [f"{layer.bytes:,}", f"{layer.bytes_kept:,}", f"{layer.dead:,}", _share(layer.effective_sparsity)]
    return [shown(layer.name), shape, f"{layer.kept:,}", f"{layer.density:.1%}", macs, effective, *sizes]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _aligned(rows: Sequence[Sequence[str]], *, left: int, right: int = 0) -> list[str]:
    """Align columns: the first `left` to the left, numbers to the right, and behind `right` of these text again."""
    count = len(rows[0])
    widths = [max(len(row[k]) for row in rows) for k in range(count)]
    ends = left + right if right else count
    return [
        "  ".join(
            cell.rjust(n) if left <= k < ends else cell.ljust(n)
            for k, (cell, n) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
