"""Augmentation against a slow reference that moves one image at a time."""

from __future__ import annotations

import pytest
import torch

from secateur._base.errors import SecateurError
from secateur.lab.data import flip, flip_and_shift, nudge, shift


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _moved(image: torch.Tensor, down: int, right: int, *, edge: bool = False) -> torch.Tensor:
    """`image` moved by whole pixels, pixel by pixel; with `edge`, its nearest pixel where there is none."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for r in range(height):
        for c in range(width):
            row, column = r - down, c - right
            if edge:
                row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
            if 0 <= row < height and 0 <= column < width:
                result[:, r, c] = image[:, row, column]
    return result


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    x = torch.rand(2000, 2, 3, 5)
    y = flip(x, _generator())
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    same = (y == x).flatten(1).all(1)
    assert torch.equal(mirrored, ~same)
    assert abs(int(mirrored.sum()) - 1000) < 4 * (2000 * 0.25) ** 0.5  # four standard deviations


def test_a_shift_moves_each_image_by_whole_pixels_and_fills_with_zeros() -> None:
    x = torch.rand(40, 3, 7, 6) + 1
    y = shift(x, _generator(), pixels=2)
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    for image, result in zip(x, y, strict=True):
        assert sum(torch.equal(result, _moved(image, *move)) for move in moves) == 1


def test_a_nudge_moves_each_image_by_at_most_a_pixel_and_goes_on_with_its_border() -> None:
    x = torch.rand(60, 2, 7, 6)
    y = nudge(x, _generator())
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    found = [
        [torch.equal(result, _moved(image, *move, edge=True)) for move in moves]
        for image, result in zip(x, y, strict=True)
    ]
    assert all(sum(one) == 1 for one in found)
    assert all(any(one[number] for one in found) for number in range(9))


def test_every_move_occurs_equally_often() -> None:
    x = torch.zeros(8100, 1, 9, 9)
    x[:, :, 4, 4] = 1
    landed = shift(x, _generator(), pixels=4).sum(0).flatten()  # one bright pixel marks the move
    assert landed.sum() == 8100
    assert (landed - 100).abs().max() < 5 * 100**0.5


def test_shift_of_zero_pixels_is_the_identity() -> None:
    x = torch.rand(4, 1, 3, 3)
    assert torch.equal(shift(x, _generator(), pixels=0), x)


def test_a_shift_longer_than_the_image_can_empty_it() -> None:
    assert shift(torch.ones(200, 1, 2, 2), _generator(), pixels=4).flatten(1).sum(1).min() == 0


def test_augmentation_depends_on_the_generator_alone() -> None:
    x = torch.rand(16, 3, 8, 8)
    assert torch.equal(flip_and_shift(x, _generator(3)), flip_and_shift(x, _generator(3)))
    assert not torch.equal(flip_and_shift(x, _generator(3)), flip_and_shift(x, _generator(4)))


def test_flip_and_shift_is_one_after_the_other() -> None:
    x = torch.rand(16, 3, 8, 8)
    generator = _generator(5)
    assert torch.equal(shift(flip(x, generator), generator, pixels=4), flip_and_shift(x, _generator(5)))


def test_the_input_is_not_written_to_and_half_precision_stays() -> None:
    x = torch.rand(8, 3, 8, 8).bfloat16()
    before = x.clone()
    assert flip_and_shift(x, _generator()).dtype is torch.bfloat16
    assert torch.equal(x, before)


def test_shifts_that_cannot_be_are_refused() -> None:
    with pytest.raises(SecateurError, match=r"^`pixels` must be 0 or more, got -1\.$"):
        shift(torch.zeros(1, 1, 2, 2), _generator(), pixels=-1)
    with pytest.raises(SecateurError, match=r"`border` must be 'zero' or 'edge', got 'mirror'"):
        shift(torch.rand(1, 1, 2, 2), _generator(), border="mirror")
