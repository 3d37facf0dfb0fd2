"""The feed-forward nets: LeNets, AlexNets, VGGs and MLPs, each one `nn.Sequential` of named layers.

Source: Lee, Ajanthan, Torr, arXiv 1810.02340, §5.1 and §5.3; sizes from the authors' code,
`namhoonlee/snip-public` (the paper's text gives AlexNet's hidden layers as 512 and 1024 where its counts and
the code need 1024 and 2048). All take `in_shape` (channel, row, column) and `num_classes`, and give one raw
score per class.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, prod

from torch import nn

from secateur._base.errors import SecateurError

_BN_EPSILON = 1e-3  # TensorFlow's default, which the authors' code uses; PyTorch's is 1e-5


def mlp(in_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Return a multilayer perceptron: flatten, a linear layer and ReLU per hidden width, the classifier.

    >>> [tuple(p.shape) for name, p in mlp((1, 2, 2), 3, (5,)).named_parameters()]
    [(5, 4), (5,), (3, 5), (3,)]
    """
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    widths = (prod(in_shape), *hidden, num_classes)
    for k, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers.append((f"fc{k}", nn.Linear(inputs, outputs)))
        if k < len(widths) - 1:
            layers.append((f"relu{k}", nn.ReLU()))
    return _chain(layers)


def lenet_300_100(in_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return LeNet-300-100: hidden layers of 300 and 100 units. N = 266,610 for 28 × 28, 10 classes."""
    return mlp(in_shape, num_classes, (300, 100))


def lenet_5_caffe(
    in_shape: tuple[int, ...], num_classes: int, widths: tuple[int, int, int] = (20, 50, 500)
) -> nn.Sequential:
    """Return LeNet-5-Caffe: 5×5×20, pool, 5×5×50, pool, 500 units. N = 431,080 for 1 × 28 × 28, 10 classes.

    `widths` are the filters of both convolutions and the hidden units.

    As in Caffe's example and the authors' code, convolutions are not padded and have no non-linearity behind
    them; the only ReLU is behind the hidden linear layer.

    Raises:
        SecateurError: the input is smaller than 16 × 16, so that nothing would be left of it.
    """
    channels, height, width = _image(in_shape)
    rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
    if rows < 1 or columns < 1:
        raise SecateurError(
            f"`in_shape` of lenet-5-caffe must be at least 16 × 16 (two unpadded 5×5 convolutions, each "
            f"halved by a pooling; the paper's is 28 × 28), got {height} × {width}. "
            f"Use lenet-300-100 for small images."
        )
    first, second, hidden = widths
    return _chain(
        [
            ("conv1", nn.Conv2d(channels, first, 5)),
            ("pool1", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(first, second, 5)),
            ("pool2", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(second * rows * columns, hidden)),
            ("relu1", nn.ReLU()),
            ("fc2", nn.Linear(hidden, num_classes)),
        ]
    )


def lenet_5_caffe_relu(
    in_shape: tuple[int, ...], num_classes: int, widths: tuple[int, int, int] = (20, 50, 500)
) -> nn.Sequential:
    """Return LeNet-5-Caffe with a ReLU behind each convolution as well. N = 431,080 for 1 × 28 × 28, 10 classes.

    Not what the authors' code has, and the paper's text says nothing of it; but dense, too, it trains by the rate and
    momentum that the paper prints, under which the network without them diverges.

    Raises:
        SecateurError: the input is smaller than 16 × 16.
    """
    layers: list[tuple[str, nn.Module]] = []
    for name, layer in lenet_5_caffe(in_shape, num_classes, widths).named_children():
        layers += [(name, layer)]
        if isinstance(layer, nn.Conv2d):
            layers += [(f"relu_{name}", nn.ReLU())]
    return _chain(layers)


def lenet_5_bn(in_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return LeNet-5-Caffe with batch norm and ReLU behind every layer but the last. N = 431,080, and 1,140 of norms.

    For methods that rank channels by the scale of their batch norm; the layers keep their names and their biases.

    Raises:
        SecateurError: the input is smaller than 16 × 16.
    """
    layers: list[tuple[str, nn.Module]] = []
    plain = dict(lenet_5_caffe(in_shape, num_classes).named_children())
    for name, layer in plain.items():
        layers += [] if isinstance(layer, nn.ReLU) else [(name, layer)]
        if isinstance(layer, nn.Conv2d):
            layers += [(name.replace("conv", "bn"), nn.BatchNorm2d(layer.out_channels)), (f"relu_{name}", nn.ReLU())]
        elif isinstance(layer, nn.Linear) and name != "fc2":
            layers += [("bn_fc1", nn.BatchNorm1d(layer.out_features)), ("relu1", nn.ReLU())]
    return _chain(layers)


def alexnet(in_shape: tuple[int, ...], num_classes: int, k: int) -> nn.Sequential:
    """Return the paper's AlexNet: five convolutions of stride 2, two hidden layers of 1024·k units.

    Batch normalisation and ReLU follow every convolution and hidden layer. N for 3 × 32 × 32 inputs and 10
    classes: 5,070,218 with k = 1 (AlexNet-s), 8,490,378 with k = 2 (AlexNet-b).

    Deviates: pads both sides by half the kernel, where TensorFlow's SAME padding with stride 2 pads one pixel
    less on the left and top; for even input sizes that is the same net on mirrored images.
    """
    channels, height, width = _image(in_shape)
    layers: list[tuple[str, nn.Module]] = []
    shapes = ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3))
    for index, (outputs, kernel) in enumerate(shapes, start=1):
        conv = nn.Conv2d(channels, outputs, kernel, stride=2, padding=kernel // 2)
        layers += _normalised("conv", index, conv, nn.BatchNorm2d(outputs, eps=_BN_EPSILON))
        channels, height, width = outputs, ceil(height / 2), ceil(width / 2)
    hidden = (1024 * k, 1024 * k)
    return _chain([*layers, *_classifier(channels * height * width, hidden, num_classes)])


def vgg(
    in_shape: tuple[int, ...], num_classes: int, *, small: tuple[int, ...], hidden: tuple[int, ...]
) -> nn.Sequential:
    """Return a VGG-16 for small images: 13 convolutions in five stages, each stage halved by a max-pooling.

    Batch normalisation and ReLU follow every convolution and hidden layer; there is no dropout.

    Args:
        in_shape: (channel, row, column).
        num_classes: units of the last layer.
        small: which convolutions, counted from 1, are 1×1; the others are 3×3.
        hidden: units of the hidden linear layers.
    """
    channels, height, width = _image(in_shape)
    layers: list[tuple[str, nn.Module]] = []
    index = 0
    for stage, (outputs, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for _ in range(repeats):
            index += 1
            kernel = 1 if index in small else 3
            conv = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
            layers += _normalised("conv", index, conv, nn.BatchNorm2d(outputs, eps=_BN_EPSILON))
            channels = outputs
        # SAME pooling of an odd size keeps the border, down to 1 × 1; for even sizes it is the plain one.
        odd = height % 2 == 1 or width % 2 == 1
        layers.append((f"pool{stage}", nn.MaxPool2d(2, ceil_mode=odd)))
        height, width = ceil(height / 2), ceil(width / 2)
    return _chain([*layers, *_classifier(channels * height * width, hidden, num_classes)])


def vgg_c(in_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return VGG-C: convolutions 7, 10 and 13 are 1×1. N = 10,526,538 for 3 × 32 × 32, 10 classes."""
    return vgg(in_shape, num_classes, small=(7, 10, 13), hidden=(512, 512))


def vgg_d(in_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return VGG-D: all convolutions are 3×3. N = 15,245,130 for 3 × 32 × 32, 10 classes."""
    return vgg(in_shape, num_classes, small=(), hidden=(512, 512))


def vgg_like(in_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return VGG-like: VGG-D with one hidden linear layer. N = 14,982,474 for 3 × 32 × 32, 10 classes."""
    return vgg(in_shape, num_classes, small=(), hidden=(512,))


def _normalised(kind: str, index: int, layer: nn.Module, norm: nn.Module) -> list[tuple[str, nn.Module]]:
    """A layer with its normalisation and ReLU. The layer keeps its bias, which the paper's counts include."""
    suffix = "" if kind == "conv" else "_fc"
    return [(f"{kind}{index}", layer), (f"bn{suffix}{index}", norm), (f"relu{suffix}{index}", nn.ReLU())]


def _classifier(inputs: int, hidden: tuple[int, ...], num_classes: int) -> list[tuple[str, nn.Module]]:
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for index, units in enumerate(hidden, start=1):
        layers += _normalised("fc", index, nn.Linear(inputs, units), nn.BatchNorm1d(units, eps=_BN_EPSILON))
        inputs = units
    return [*layers, (f"fc{len(hidden) + 1}", nn.Linear(inputs, num_classes))]


def _chain(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    chain = nn.Sequential()
    for name, layer in layers:
        chain.add_module(name, layer)
    return chain


def _image(in_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise SecateurError(f"`in_shape` must be (channels, rows, columns), each at least 1, got {in_shape}.")
    channels, height, width = in_shape
    return channels, height, width
