"""LeNet-5-Caffe with a ReLU behind each convolution: the plain one's weights, another function."""

from __future__ import annotations

import torch

from secateur.lab import models


def test_lenet_5_with_relu_has_the_weights_of_the_plain_one_and_cuts_what_its_convolutions_return_below_zero() -> None:
    plain, relu = (
        models.build(name, generator=torch.Generator().manual_seed(0))
        for name in ("lenet-5-caffe", "lenet-5-caffe-relu")
    )
    assert all(torch.equal(mine, other) for mine, other in zip(relu.parameters(), plain.parameters(), strict=True))
    assert list(dict(relu.named_parameters())) == list(dict(plain.named_parameters()))
    x = torch.randn(3, 1, 28, 28)
    layers = dict(plain.named_children())
    features = layers["pool1"](layers["conv1"](x).clamp_min(0))
    features = layers["pool2"](layers["conv2"](features).clamp_min(0))
    expected = layers["fc2"](layers["fc1"](features.flatten(1)).clamp_min(0))
    torch.testing.assert_close(relu(x), expected)
    assert not torch.allclose(relu(x), plain(x))
