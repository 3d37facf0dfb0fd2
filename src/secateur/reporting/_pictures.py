"""Pictures for a page without resources of its own: masks as PNG, bars and histograms as SVG."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from secateur._base.types import Bool
from secateur.reporting._told import Histogram

__all__ = ["bars", "mask_picture", "png"]

_SIDE = 192  # pixels at most
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
