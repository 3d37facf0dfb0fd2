"""Which inputs kept their connections: the first layer's mask, summed over its hidden units, as an image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch

from secateur._types import Float, Tensor
from secateur.errors import SecateurError
from secateur.lab import data
from secateur.lab.compare import Row
from secateur.lab.stages import MASKS
from secateur.lab.store import write_bytes
from secateur.masks import Masks


def kept_inputs(masks: Masks, shape: tuple[int, ...]) -> Float[Tensor, "rows columns"]:
    """Return, for each pixel, the fraction of first-layer connections kept: mean over hidden units, channels summed up.

    The view of Figure 2 in "SNIP" (arXiv 1810.02340), which sums the 300 columns of LeNet-300-100's first layer.

    Args:
        masks: of a network whose first masked layer is linear over the whole image.
        shape: of the image, (channel, row, column).

    Raises:
        SecateurError: the first layer does not look at whole images.

    >>> mask = torch.tensor([[True, False, True, False], [True, False, False, False]])
    >>> kept_inputs(Masks({"fc1.weight": mask}), (1, 2, 2))
    tensor([[1.0000, 0.0000],
            [0.5000, 0.0000]])
    """
    name, first = next(iter(masks.items()))
    if first.dim() != 2 or first.shape[1] != torch.Size(shape).numel():
        raise SecateurError(
            f"the picture needs a first layer over all {torch.Size(shape).numel()} inputs, but {name!r} has shape "
            f"{tuple(first.shape)}."
        )
    return first.float().mean(dim=0).reshape(shape).mean(dim=0)


def draw_inputs(rows: Sequence[Row], path: Path) -> None:
    """Draw one panel per row, averaged over its seeds, and the mean training image beside them; write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = data.catalogue()[rows[0].experiment.data].shape
    panels = {row.experiment.method: _mean_of(row, shape) for row in rows}
    examples = data.load(rows[0].experiment.data, standardise=False).train
    panels["mean image"] = examples.x.mean(dim=(0, 1))
    figure = Figure(figsize=(2.6 * len(panels), 3.0), layout="constrained")
    canvas = FigureCanvasAgg(figure)  # drawn without pyplot: no window system is asked for
    top = max(float(panels[row.experiment.method].max()) for row in rows)
    for axes, (title, image) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        limit = {} if title == "mean image" else {"vmin": 0.0, "vmax": top}
        axes.imshow(image.numpy(), cmap="gray", interpolation="nearest", **limit)
        axes.set_title(title)
        axes.set_axis_off()
    kept = rows[0].experiment.density
    figure.suptitle(f"connections kept per input pixel, {kept:.3g} of all weights kept", fontsize="medium")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _mean_of(row: Row, shape: tuple[int, ...]) -> Tensor:
    images = [kept_inputs(Masks.load(result.directory / MASKS), shape) for result in row.results]
    return torch.stack(images).mean(dim=0)
