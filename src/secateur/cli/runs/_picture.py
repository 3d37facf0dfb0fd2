"""Which inputs kept their connections: the first layer's mask, summed over its hidden units, as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from secateur._base.types import Tensor
from secateur.lab import data
from secateur.lab.comparing import Row
from secateur.lab.paper import canvas, kept_inputs, save_figure, show_image
from secateur.lab.running import MASKS
from secateur.masks import Masks


def draw_inputs(rows: Sequence[Row], path: Path) -> None:
    """Draw one panel per row, averaged over its seeds, and the mean training image beside them; write a PNG."""
    shape = data.catalogue()[rows[0].experiment.data].shape
    panels = {row.experiment.method: _mean_of(row, shape) for row in rows}
    most = max(float(panel.max()) for panel in panels.values())
    examples = data.load(rows[0].experiment.data, standardise=False).train
    figure, axes = canvas(1, len(panels) + 1, width=2.6 * (len(panels) + 1), height=3.0)
    for panel, (title, image) in zip(axes, panels.items(), strict=False):
        show_image(panel, image, title, most=most)
    show_image(axes[-1], examples.x.mean(dim=(0, 1)), "mean image")
    kept = rows[0].experiment.density
    figure.suptitle(f"connections kept per input pixel, {kept:.3g} of all weights kept", fontsize="medium")
    save_figure(figure, path)


def _mean_of(row: Row, shape: tuple[int, ...]) -> Tensor:
    images = [kept_inputs(Masks.load(result.directory / MASKS), shape) for result in row.results]
    return torch.stack(images).mean(dim=0)
