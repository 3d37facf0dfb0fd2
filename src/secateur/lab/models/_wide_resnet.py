"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146), as in their PyTorch code."""

from __future__ import annotations

from torch import Tensor, nn

from secateur._base.errors import SecateurError

_DEEPEST = 10_000


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each behind normalisation and ReLU, added to the input.

    h = ReLU(BN₁(x)); y = conv₂(ReLU(BN₂(conv₁(h)))) + s(x), where s is the identity, or a 1×1 convolution of
    h (not of x, as in the authors' code) where the number of channels changes.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        stride: of conv₁ and of the 1×1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, ⌈h/stride⌉, ⌈w/stride⌉]."""
        h = self.relu1(self.bn1(x))
        y = self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return y + (x if self.shortcut is None else self.shortcut(h))


def wrn(in_shape: tuple[int, ...], num_classes: int, *, depth: int, width: int) -> nn.Sequential:
    """Return WRN-depth-width: a convolution, three groups of (depth − 4) / 6 blocks, pooling, classifier.

    The groups have 16·width, 32·width and 64·width channels; the second and third halve the image.
    Convolutions have no bias, so N = weights + the classifier's bias: 10,954,170 (16-8), 17,107,642 (16-10),
    17,147,322 (22-8).

    Args:
        in_shape: (channel, row, column).
        num_classes: units of the last layer.
        depth: 6·n + 4 for n blocks a group.
        width: k of the paper.

    Raises:
        SecateurError: no such depth, or one that nobody could train; or width below 1.
    """
    if depth < 10 or (depth - 4) % 6:
        near = max(10, round((depth - 4) / 6) * 6 + 4)
        raise SecateurError(f"`depth` of a WRN must be 6·n + 4 (10, 16, 22, 28 …), got {depth}. Did you mean {near}?")
    if depth > _DEEPEST:
        raise SecateurError(f"`depth` of a WRN must be at most {_DEEPEST:,}, got {depth:,}.")
    if width < 1:
        raise SecateurError(f"`width` of a WRN must be 1 or more, got {width}.")
    chain = nn.Sequential()
    chain.add_module("conv", nn.Conv2d(in_shape[0], 16, 3, padding=1, bias=False))
    inputs = 16
    for group, outputs in enumerate((16 * width, 32 * width, 64 * width), start=1):
        blocks = nn.Sequential()
        for index in range((depth - 4) // 6):
            stride = 2 if group > 1 and index == 0 else 1
            blocks.add_module(f"block{index + 1}", WideBlock(inputs, outputs, stride))
            inputs = outputs
        chain.add_module(f"group{group}", blocks)
    chain.add_module("bn", nn.BatchNorm2d(inputs))
    chain.add_module("relu", nn.ReLU())
    chain.add_module("pool", nn.AdaptiveAvgPool2d(1))
    chain.add_module("flatten", nn.Flatten())
    chain.add_module("fc", nn.Linear(inputs, num_classes))
    return chain
