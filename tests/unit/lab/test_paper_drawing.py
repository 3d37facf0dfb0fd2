"""Pictures of papers and of the demo: what a panel shows, and that a file is there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from secateur._base.errors import SecateurError
from secateur.lab.paper import canvas, kept_inputs, save_figure, show_image
from secateur.masks import Masks


def test_kept_inputs_is_the_sum_over_hidden_units(generator: torch.Generator) -> None:
    mask = torch.rand(30, 12, generator=generator) < 0.3
    image = kept_inputs(Masks({"fc1.weight": mask}), (1, 3, 4))
    assert image.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            expected = sum(bool(unit[4 * row + column]) for unit in mask) / 30
            assert image[row, column].item() == pytest.approx(expected)
    with pytest.raises(SecateurError, match=r"needs a first layer over all 9 inputs, but 'fc1.weight' has shape"):
        kept_inputs(Masks({"fc1.weight": mask}), (1, 3, 3))


def test_channels_are_averaged(generator: torch.Generator) -> None:
    mask = torch.rand(5, 3 * 4, generator=generator) < 0.5
    image = kept_inputs(Masks({"fc1.weight": mask}), (3, 2, 2))
    assert torch.allclose(image, mask.float().view(5, 3, 2, 2).mean(dim=(0, 1)))
    with pytest.raises(SecateurError, match=r"'conv1.weight' has shape \(4, 1, 2, 2\)"):
        kept_inputs(Masks({"conv1.weight": torch.ones(4, 1, 2, 2).bool()}), (1, 2, 2))


def test_panels_come_in_reading_order(tmp_path: Path) -> None:
    figure, panels = canvas(2, 3, width=3.0, height=2.0)
    assert len(panels) == 6
    for number, panel in enumerate(panels):
        show_image(panel, torch.full((2, 2), number / 5), most=1.0)
    save_figure(figure, tmp_path / "deep" / "six.png")
    drawn = torch.from_numpy(imread(tmp_path / "deep" / "six.png")[:, :, 0])
    height, width = drawn.shape
    places = [(height * (1 + 2 * row) // 4, width * (1 + 2 * column) // 6) for row in range(2) for column in range(3)]
    assert [round(drawn[place].item() * 5) for place in places] == [0, 1, 2, 3, 4, 5]


def test_drawing_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        figure, axes = canvas(1, 2, width=2.0, height=1.0)
        show_image(axes[0], torch.eye(4), "eye")
        show_image(axes[1], torch.eye(4), most=2.0)
        save_figure(figure, tmp_path / name / "eye.png")
    assert (tmp_path / "one" / "eye.png").read_bytes() == (tmp_path / "two" / "eye.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["eye.png"]
