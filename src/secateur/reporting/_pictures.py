"""Pictures for a page without resources of its own: masks as PNG, bars and histograms as SVG."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from secateur._base.types import Bool
from secateur.reporting._told import Curve, Histogram

__all__ = ["bars", "curve", "mask_picture", "pixel_picture", "png", "score_bars", "score_histograms"]

_SIDE = 192  # pixels at most
_BINS = 40
_BLOCK = 4096  # rows at once: a part of the mask is as large as its floats


def png(grey: Tensor) -> bytes:
    """Write a grey picture, bytes [height, width], as PNG: 8 bits, one filter byte a row."""
    height, width = grey.shape
    rows = grey.to("cpu", torch.uint8).numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def mask_picture(mask: Bool[Tensor, "..."], label: str) -> str:
    """Draw a mask: a row for each unit, dark where weights stay; large ones are averaged to what a screen shows.

    Args:
        mask: of any shape, drawn as [first dimension, all others].
        label: what it is, for those who do not see it; escaped already.
    """
    flat = mask.detach().to("cpu").reshape(mask.shape[0] if mask.dim() else 1, -1)
    if not flat.numel():
        return ""
    rows, columns = (min(n, _SIDE) for n in flat.shape)
    # Columns first, in parts of rows: a mask of a hundred million entries is not made floats of at once.
    narrow = torch.cat([_pooled(part.float(), len(part), columns) for part in flat.split(_BLOCK)])
    share = _pooled(narrow, rows, columns)
    content = base64.b64encode(png((255 * (1 - share)).round())).decode()
    size = f'width="{columns}" height="{rows}"'
    return f'<img class="mask" alt="{label}" {size} src="data:image/png;base64,{content}">'


def _pooled(picture: Tensor, rows: int, columns: int) -> Tensor:
    return adaptive_avg_pool2d(picture[None, None], (rows, columns))[0, 0]


def bars(histogram: Histogram, label: str) -> str:
    """Draw a histogram as SVG, with the values of its ends and the zero between them."""
    counts, most = histogram.counts, max(histogram.counts)
    step, height = 200 / len(counts), 60
    drawn = "".join(
        f'<rect x="{k * step:.2f}" y="{height - count / most * height:.2f}" width="{step * 0.9:.2f}" '
        f'height="{count / most * height:.2f}"/>'
        for k, count in enumerate(counts)
        if count
    )
    zero = ""
    if histogram.low < 0 < histogram.high:
        place = 200 * -histogram.low / (histogram.high - histogram.low)
        zero = f'<line x1="{place:.2f}" x2="{place:.2f}" y1="0" y2="{height}"/>'
    ends = (
        f'<text x="0" y="{height + 13}">{histogram.low:.3g}</text>'
        f'<text x="200" y="{height + 13}" text-anchor="end">{histogram.high:.3g}</text>'
    )
    return (
        f'<svg class="bars" viewBox="0 0 200 {height + 16}" role="img" aria-label="{label}">{drawn}{zero}{ends}</svg>'
    )


def score_histograms(scores: Tensor, mask: Bool[Tensor, "..."]) -> tuple[Histogram, Histogram] | None:
    """Count the logarithms of scores above zero, of what stays and of what went, in the same bins."""
    scores, mask = scores.detach().to("cpu", torch.float64), mask.to("cpu")
    above = (scores > 0) & scores.isfinite()
    if not bool(above.any()):
        return None
    logs = scores.clamp(min=torch.finfo(torch.float64).tiny).log10()
    low, high = float(logs[above].min()), float(logs[above].max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    stay, went = (torch.histc(logs[above & which], _BINS, low, high) for which in (mask, ~mask))
    return Histogram(low, high, tuple(stay.long().tolist())), Histogram(low, high, tuple(went.long().tolist()))


def score_bars(stay: Histogram, went: Histogram, label: str) -> str:
    """Draw the two histograms of scores on each other, with the powers of ten at their ends."""
    most = max(*stay.counts, *went.counts)
    step, height = 200 / len(stay.counts), 60
    drawn = "".join(
        f'<rect class="{kind}" x="{k * step:.2f}" y="{height - count / most * height:.2f}" width="{step * 0.9:.2f}" '
        f'height="{count / most * height:.2f}"/>'
        for kind, found in (("went", went), ("stay", stay))
        for k, count in enumerate(found.counts)
        if count
    )
    ends = "".join(
        f'<text x="{x}" y="{height + 13}"{place}>{10**end:.1e}</text>'
        for x, end, place in ((0, stay.low, ""), (200, stay.high, ' text-anchor="end"'))
    )
    return f'<svg class="bars" viewBox="0 0 200 {height + 16}" role="img" aria-label="{label}">{drawn}{ends}</svg>'


def pixel_picture(picture: Tensor, label: str) -> str:
    """Draw numbers of pixels, the largest black, as an image of their own size; CSS enlarges it."""
    numbers = picture.double()
    low, high = float(numbers.min()), float(numbers.max())
    share = (numbers - low) / (high - low) if high > low else torch.zeros_like(numbers)
    content = base64.b64encode(png((255 * (1 - share)).round())).decode()
    size = f'width="{picture.shape[1]}" height="{picture.shape[0]}"'
    return f'<img class="mask pixels" alt="{label}" {size} src="data:image/png;base64,{content}">'


def curve(found: Curve, label: str) -> str:
    """Draw a line over steps, from zero or the smallest value up to the largest, with its ends."""
    points = [(step, value) for step, value in found.points if value == value and abs(value) != float("inf")]
    if not points:
        return ""
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    low, high = min(0.0, *(value for _, value in points)), max(value for _, value in points)
    span, height = (high - low) or 1.0, 60
    places = " ".join(
        f"{200 * (step - first) / (last - first):.2f},{height - (value - low) / span * height:.2f}"
        for step, value in points
    )
    ends = (
        f'<text x="0" y="{height + 13}">step {first:,}</text>'
        f'<text x="200" y="{height + 13}" text-anchor="end">step {last:,}: {points[-1][1]:.3g}</text>'
    )
    return (
        f'<svg class="bars" viewBox="0 -2 200 {height + 18}" role="img" aria-label="{label}">'
        f'<polyline points="{places}"/>{ends}</svg>'
    )
