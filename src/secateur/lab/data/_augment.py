"""Augmentation of a whole batch at once, on the device where the batch lies."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from secateur._base.errors import SecateurError
from secateur._base.types import Float, Tensor
from secateur.lab.repeat import sent

Augment = Callable[[Tensor, torch.Generator], Tensor]

_BORDERS = {"zero": "constant", "edge": "replicate"}


def flip(x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Mirror each image left-right with probability ½.

    Args:
        x: images, [batch, channel, row, column].
        generator: draws one bit per image. The bits are drawn on the generator's device and sent to the
            images', so that a CPU generator gives the same flips wherever the images are.
    """
    mirrored = sent(torch.rand(len(x), generator=generator, device=generator.device), x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def shift(
    x: Float[Tensor, "b c h w"], generator: torch.Generator, *, pixels: int = 4, border: str = "zero"
) -> Float[Tensor, "b c h w"]:
    """Move each image by whole pixels, each direction uniform in {−pixels … pixels}.

    Zero is the mean colour of standardised data, as in the authors' code of SNIP (arXiv 1810.02340, §5).

    Args:
        x: images, [batch, channel, row, column].
        generator: draws two numbers per image, on its own device.
        pixels: the longest move, in pixels.
        border: what comes in: "zero", or "edge", the image's own outermost pixels.

    Raises:
        SecateurError: `pixels` is negative, or `border` another word.
    """
    if border not in _BORDERS:
        raise SecateurError(f"`border` must be {' or '.join(map(repr, _BORDERS))}, got {border!r}.")
    if pixels < 0:
        raise SecateurError(f"`pixels` must be 0 or more, got {pixels}.")
    b, c, h, w = x.shape
    drawn = torch.randint(0, 2 * pixels + 1, (2, b, 1), generator=generator, device=generator.device)
    moves = sent(drawn, x.device)
    wide = F.pad(x, [pixels] * 4, mode=_BORDERS[border]).reshape(b, c, -1)
    # One gather from the padded images, in place of a loop over images or an interpolating grid.
    row = moves[0] + torch.arange(h, device=x.device)
    column = moves[1] + torch.arange(w, device=x.device)
    source = row[:, :, None] * (w + 2 * pixels) + column[:, None, :]
    return wide.gather(2, source.reshape(b, 1, -1).expand(b, c, -1)).reshape(b, c, h, w)


def flip_and_shift(x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Augment as the SNIP paper does on CIFAR: random horizontal flip, then translation up to 4 pixels.

    Source: arXiv 1810.02340, §5, "standard data augmentation".

    Deviates: the authors' code applies a random subset of the two in random order, so that a quarter of the
    images is mirrored; here every image takes part in both, as the paper says. It augments validation images
    too; here only training batches are augmented.
    """
    return shift(flip(x, generator), generator, pixels=4)


def nudge(x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Move each image by up to one pixel each way, the border's own colour coming in: for digits on an empty ground.

    Source: LeCun, Bottou, Bengio and Haffner, Proc. IEEE 1998, trained with small distortions, translations
    among them. The SNIP paper does not say that it augments MNIST.
    """
    return shift(x, generator, pixels=1, border="edge")
