"""Pictures without a window system: a figure of panels, written as a PNG at once or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur._base.errors import SecateurError
from secateur._base.types import Float, Tensor
from secateur.lab.repeat import write_bytes
from secateur.masks import Masks
from secateur.scanning import Sensitivity


def canvas(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure and its panels in reading order. `width` and `height` are in inches.

    Built without pyplot: no global state, no window.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, atomically; its folder is made where it is missing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def show_image(axes: Any, image: Tensor, title: str = "", *, most: float | None = None) -> None:
    """Draw a grey image [row, column] into a panel, from 0 to `most` (by default its own range)."""
    limits = {} if most is None else {"vmin": 0.0, "vmax": most}
    axes.imshow(image.numpy(), cmap="gray", interpolation="nearest", **limits)
    if title:
        axes.set_title(title, fontsize="small")
    axes.set_axis_off()


def draw_sensitivity(scan: Sensitivity, path: Path, title: str = "one layer cut, nothing retrained") -> None:
    """Draw the error over the kept fraction, a line for each layer, and write a PNG: Figure 6 of arXiv 1506.02626."""
    figure, (panel,) = canvas(1, 1, width=6.0, height=4.0)
    for name, levels in scan.levels.items():
        panel.plot([level.density for level in levels], [100 * level.error for level in levels], marker=".", label=name)
    panel.axhline(100 * scan.dense, color="black", linewidth=0.8, linestyle=":", label="as it is")
    panel.set_xscale("log")
    panel.invert_xaxis()
    panel.set_xlabel("fraction of the layer's weights that stays")
    panel.set_ylabel("error, %")
    panel.set_title(title, fontsize="medium")
    panel.legend(fontsize="small")
    save_figure(figure, path)


def kept_inputs(masks: Masks, shape: Sequence[int]) -> Float[Tensor, "rows columns"]:
    """Return, for each pixel, the fraction of first-layer connections kept: mean over hidden units, channels summed up.

    The view of Figure 2 in "SNIP" (arXiv 1810.02340), which sums the 300 columns of LeNet-300-100's first layer.

    Args:
        masks: of a network whose first masked layer is linear over the whole image.
        shape: of the image, (channel, row, column).

    Raises:
        SecateurError: the first layer does not look at whole images.

    >>> import torch
    >>> mask = torch.tensor([[True, False, True, False], [True, False, False, False]])
    >>> kept_inputs(Masks({"fc1.weight": mask}), (1, 2, 2))
    tensor([[1.0000, 0.0000],
            [0.5000, 0.0000]])
    """
    name, first = next(iter(masks.items()))
    pixels = 1
    for size in shape:
        pixels *= size
    if first.dim() != 2 or first.shape[1] != pixels:
        raise SecateurError(
            f"the picture needs a first layer over all {pixels} inputs, but {name!r} has shape {tuple(first.shape)}."
        )
    return first.float().mean(dim=0).reshape(tuple(shape)).mean(dim=0)
