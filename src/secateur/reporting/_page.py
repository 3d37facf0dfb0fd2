"""A report as one page that loads nothing: style, tables, pictures and bars stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur._base.text import shown
from secateur.masks import Masks
from secateur.reporting._pictures import bars, mask_picture
from secateur.reporting._style import STYLE
from secateur.reporting._told import LayerTold, Way

__all__ = ["page"]

_EXPLAINED = """\
MACs: multiplications that one forward adds up, and those with weights that stay. Bytes: of values alone. Dead: units
that no weight reaches. Effective sparsity: pruned, or on no path of kept weights from the inputs to the outputs.
Milliseconds: forwards in eval mode without gradients on the machine that wrote this, in turns, median and spread."""


def page(
    summary: str,
    layers: Sequence[LayerTold],
    masks: Masks,
    *,
    tables: tuple[list[list[str]], list[list[str]]],
    ways: Sequence[Way],
) -> str:
    """Write the page.

    Args:
        summary: what it is of, in a line.
        layers: one section each.
        masks: drawn in them.
        tables: of the layers and of the ways, as text with their heads first.
        ways: drawn as bars.
    """
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><title>{_text(summary)}</title><style>{STYLE}</style></head>',
        f"<body><main><h1>Secateur report</h1><p>{_text(summary)}</p>",
        f"<h2>Milliseconds here</h2>{_table(tables[1])}{_times(ways)}",
        f'<h2>Layers</h2>{_table(tables[0], total=True)}<p class="small">{_EXPLAINED}</p>',
        *(_section(layer, masks) for layer in layers),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _text(text: object) -> str:
    return escape(shown(text), quote=True)


def _table(rows: list[list[str]], *, total: bool = False) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in rows[0])
    body = [_cells(row) for row in rows[1:]]
    foot = f"<tfoot>{body.pop()}</tfoot>" if total else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody>{foot}</table></div>'


def _cells(row: list[str]) -> str:
    first, *others = row
    cells = "".join(f"<td{_kind(cell)}>{_text(cell)}</td>" for cell in others)
    return f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>'


def _kind(cell: str) -> str:
    return ' class="said"' if len(cell) > 30 else ""


def _times(ways: Sequence[Way]) -> str:
    known = [(way.name, way.latency.seconds) for way in ways if way.latency is not None]
    most = max(seconds for _, seconds in known)
    return "".join(_bar(name, seconds / most, f"{seconds * 1e3:.3g} ms") for name, seconds in known)


def _bar(name: str, share: float, said: str) -> str:
    filled = f'<span class="track"><span class="fill" style="width:{100 * share:.2f}%"></span></span>'
    return f'<div class="bar"><span>{_text(name)}</span>{filled}<span>{_text(said)}</span></div>'


def _section(layer: LayerTold, masks: Masks) -> str:
    name, shape = _text(layer.name), " × ".join(map(str, layer.shape))
    drawn = mask_picture(masks[layer.name], f"mask of {name}")
    figures = f"<figure>{drawn}<figcaption>mask, a row for each unit; dark stays</figcaption></figure>" if drawn else ""
    if layer.histogram is not None:
        found = bars(layer.histogram, f"histogram of the weights of {name} that stay")
        figures += f"<figure>{found}<figcaption>weights that stay</figcaption></figure>"
    shares = _bar("kept", layer.density, f"{layer.kept:,} of {layer.numel:,}")
    if layer.effective is not None:
        shares += _bar("effective", layer.effective / max(1, layer.numel), f"{layer.effective:,}")
    return f"<section><h3>{name} <small>{shape}</small></h3>{shares}<div class='figures'>{figures}</div></section>"
