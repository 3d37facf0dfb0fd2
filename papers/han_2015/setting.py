"""What the tables and figures share: the lengths, and the networks that are too large to be trained here, as shapes.

All recipes are ours; the paper says that retraining has a tenth of the rate (LeNets), and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from secateur.lab.experiment import Constant, Experiment, Ramp, Recipe, Sgd

LENET_300, LENET_5 = "lenet-300-100", "lenet-5-caffe"
TITLES = {LENET_300: "LeNet-300-100", LENET_5: "LeNet-5"}

#: 20 epochs of all 60,000 images; the runs are those of the SNIP paper's Table 1 here.
TRAINED_300 = Recipe(steps=12_000, rate=Ramp(0.1, 12_000, warmup=300), evaluate_every=2_000)
TRAINED_5 = replace(TRAINED_300, rate=Ramp(0.03, 12_000, warmup=300))
TRAINED = ((LENET_300, TRAINED_300), (LENET_5, TRAINED_5))

#: For the figure of L1 and L2: the same, with an L1 penalty in the place of the decay.
WITH_L1 = replace(TRAINED_300, optimizer=Sgd(weight_decay=0.0, l1=2e-5))

#: 10 epochs at a tenth of the rate; and nothing at all, as a training.
RETRAINED = Recipe(steps=6_000, rate=Ramp(0.01, 6_000), evaluate_every=2_000)
AS_CUT = Recipe(steps=1, rate=Constant(1e-12))

#: (shape of the weight, kept percentage): the paper's Tables 4 and 5. Those of VGG-16's convolutions are from memory.
Layers = Mapping[str, tuple[tuple[int, ...], int]]

ALEXNET: Layers = {
    "conv1": ((96, 3, 11, 11), 84),
    "conv2": ((256, 48, 5, 5), 38),
    "conv3": ((384, 256, 3, 3), 35),
    "conv4": ((384, 192, 3, 3), 37),
    "conv5": ((256, 192, 3, 3), 37),
    "fc1": ((4096, 9216), 9),
    "fc2": ((4096, 4096), 9),
    "fc3": ((1000, 4096), 25),
}
VGG_16: Layers = {
    "conv1_1": ((64, 3, 3, 3), 58),
    "conv1_2": ((64, 64, 3, 3), 22),
    "conv2_1": ((128, 64, 3, 3), 34),
    "conv2_2": ((128, 128, 3, 3), 36),
    "conv3_1": ((256, 128, 3, 3), 53),
    "conv3_2": ((256, 256, 3, 3), 24),
    "conv3_3": ((256, 256, 3, 3), 42),
    "conv4_1": ((512, 256, 3, 3), 32),
    "conv4_2": ((512, 512, 3, 3), 27),
    "conv4_3": ((512, 512, 3, 3), 34),
    "conv5_1": ((512, 512, 3, 3), 35),
    "conv5_2": ((512, 512, 3, 3), 29),
    "conv5_3": ((512, 512, 3, 3), 36),
    "fc6": ((4096, 25088), 4),
    "fc7": ((4096, 4096), 4),
    "fc8": ((1000, 4096), 23),
}


def counted(layers: Layers) -> tuple[int, float, float]:
    """Return how many weights there are, and between which numbers stay: percentages are printed to whole ones.

    The paper prints 61 M and 6.7 M of AlexNet (9×), 138 M and 10.3 M of VGG-16 (13×).

    >>> [round(n / 1e6, 1) for n in counted(ALEXNET)], [round(n / 1e6, 1) for n in counted(VGG_16)]
    ([61.0, 6.5, 7.1], [138.3, 9.8, 11.2])
    """
    sizes = {name: prod(shape) for name, (shape, _) in layers.items()}
    low, high = (sum(sizes[n] * (kept + by) / 100 for n, (_, kept) in layers.items()) for by in (-0.5, 0.5))
    return sum(sizes.values()), low, high


def dense(model: str, recipe: Recipe) -> Experiment:
    """Return the training of a whole network."""
    return Experiment(model, "mnist", "dense", 1.0, recipe, validation=0.0)


def pruned(model: str, density: float, *, first: Recipe, after: Recipe, rounds: int) -> Experiment:
    """Return a run of LWC from a trained network: so many cuts, each retrained."""
    plain = Experiment(model, "mnist", "iterative_lwc", density, after, validation=0.0, pretrain=first)
    return plain.with_options({"trained": True, "rounds": rounds})
