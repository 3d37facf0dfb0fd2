"""A report as one page that loads nothing: style, tables, pictures and bars stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur._base.text import shown
from secateur.masks import Masks
from secateur.reporting._pictures import bars, curve, mask_picture, pixel_picture, score_bars
from secateur.reporting._style import STYLE
from secateur.reporting._told import Curve, LayerTold, Pixels, Way

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
    pixels: Pixels | None = None,
    curves: Sequence[Curve] = (),
) -> str:
    """Write the page.

    Args:
        summary: what it is of, in a line.
        layers: one section each.
        masks: drawn in them.
        tables: of the layers and of the ways, as text with their heads first.
        ways: drawn as bars.
        pixels: which pixels kept their connections, where the network reads images flat.
        curves: how training went.
    """
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><title>{_text(summary)}</title><style>{STYLE}</style></head>',
        f"<body><main><h1>Secateur report</h1><p>{_text(summary)}</p>",
        f"<h2>Milliseconds here</h2>{_table(tables[1])}{_times(ways)}",
        *_training(curves),
        *_pixels(pixels),
        f'<h2>Layers</h2>{_table(tables[0], total=True)}<p class="small">{_EXPLAINED}</p>',
        *(_section(layer, masks) for layer in layers),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _training(curves: Sequence[Curve]) -> list[str]:
    drawn = [(each.name, curve(each, f"{_text(each.name)} over steps")) for each in curves]
    figures = "".join(f"<figure>{svg}<figcaption>{_text(name)}</figcaption></figure>" for name, svg in drawn if svg)
    return [f"<h2>Training</h2><div class='figures'>{figures}</div>"] if figures else []


def _pixels(found: Pixels | None) -> list[str]:
    if found is None:
        return []
    name, most = _text(found.name), int(found.kept.max())
    pictures = (
        (found.kept, f"connections of {name} kept per pixel: white {int(found.kept.min())}, black {most}"),
        (found.mean, "mean of the example's images"),
    )
    figures = "".join(
        f"<figure>{pixel_picture(picture, said)}<figcaption>{said}</figcaption></figure>" for picture, said in pictures
    )
    return [f"<h2>Kept pixels</h2><div class='figures'>{figures}</div>"]


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
    return ' class="said"' if len(cell) > 24 else ""


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
    if layer.scores is not None:
        found = score_bars(*layer.scores, f"histogram of the scores of {name}")
        figures += f"<figure>{found}<figcaption>scores above zero; grey went, green stays</figcaption></figure>"
    shares = _bar("kept", layer.density, f"{layer.kept:,} of {layer.numel:,}")
    if layer.effective is not None:
        shares += _bar("effective", layer.effective / max(1, layer.numel), f"{layer.effective:,}")
    return f"<section><h3>{name} <small>{shape}</small></h3>{shares}<div class='figures'>{figures}</div></section>"
