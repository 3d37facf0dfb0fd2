"""What the tables and figures share: recipes, sparsities and the words for them.

Section numbers are those of arXiv 1810.02340. Every learning rate, length and batch that stands here is either printed
there or marked as ours.
"""

from __future__ import annotations

from dataclasses import replace

from secateur.lab.data import whereabouts
from secateur.lab.experiment import PAPER_PROTOCOL, Adam, Experiment, Ramp, Recipe, Sgd, recipe

LENET_300, LENET_5, LENET_5_RELU = "lenet-300-100", "lenet-5-caffe", "lenet-5-caffe-relu"
TITLES = {LENET_300: "LeNet-300-100", LENET_5: "LeNet-5-Caffe", LENET_5_RELU: "LeNet-5-Caffe with ReLU"}

#: §5.1, MNIST: SGD with momentum 0.9, weight decay 5e-4, 0.1 divided by 10 every 25,000 steps. The number of steps is
#: not printed: ours, four stairs.
LITERAL = recipe("paper-mnist")

#: What LeNet-5-Caffe without ReLU is trained by outside Table 1: the same without momentum, as the authors' code
#: trains it by default. With momentum, its loss is infinite after some ten steps where more than a tenth of the weights
#: stay.
PLAIN_SGD = replace(LITERAL, optimizer=Sgd(momentum=0.0), name="")

#: §5.1, CIFAR-10: the same, divided every 30,000 steps, batches of 128, flips and translations. Five stairs, ours.
CIFAR = recipe("paper-cifar")

#: §5.5, Table 3: Adam at 1e-3 without weight decay. The length is ours.
ADAM = recipe("paper-adam")

#: Ours, for LeNet-300-100: the best of `search.py`, a cosine from twice the paper's rate.
BEST_300 = Recipe(steps=100_000, rate=Ramp(peak=0.2, steps=100_000, warmup=1_000))

#: Ours, for LeNet-5-Caffe: a cosine whose peak the dense network survives.
BEST_5 = Recipe(steps=100_000, rate=Ramp(peak=0.03, steps=100_000, warmup=1_000))

#: Ours, with moved images, which regularises already: less decay is wanted beside it, and LeNet-5-Caffe learns faster.
SHIFTED_300 = replace(BEST_300, augment=True, optimizer=Sgd(weight_decay=1e-4))
SHIFTED_5 = Recipe(
    steps=100_000, rate=Ramp(0.045, 100_000, warmup=1_000), optimizer=Sgd(weight_decay=1e-4), augment=True
)

#: Ours, for the rows of Table 1 that prune trained networks: 20 epochs of all 60,000 images, before and after.
TRAINED_300 = Recipe(steps=12_000, rate=Ramp(0.1, 12_000, warmup=300), evaluate_every=2_000)
TRAINED_5 = replace(TRAINED_300, rate=Ramp(0.03, 12_000, warmup=300))

#: The same length at a fifth of the rate, for DNS: its thresholds stay where the trained weights put them.
GENTLE_AFTER = replace(TRAINED_300, rate=Ramp(0.02, 12_000, warmup=300))

#: The same length for the two Bayesian methods, which their authors train with Adam and without decay.
ADAM_AFTER = replace(TRAINED_300, rate=Ramp(1e-3, 12_000, warmup=300), optimizer=Adam())


def lenet(model: str, method: str, density: float, training: Recipe | None = None) -> Experiment:
    """Return a run on MNIST under the common protocol: the weights that were scored are trained."""
    usual = PLAIN_SGD if model == LENET_5 else LITERAL
    return Experiment(model, "mnist", method, density, training or usual)


def best(experiment: Experiment) -> Experiment:
    """Return the run under the best setting found for its network, the same for sparse and dense: nothing held out."""
    return replace(experiment, recipe=BEST_5 if experiment.model == LENET_5 else BEST_300, validation=0.0)


def shifted(experiment: Experiment) -> Experiment:
    """Return the run with nothing held out and training images moved by up to a pixel. The paper moves CIFAR's only."""
    recipe = SHIFTED_5 if experiment.model == LENET_5 else SHIFTED_300
    return replace(experiment, recipe=recipe, validation=0.0)


def as_published(experiment: Experiment) -> Experiment:
    """Return the run under the protocol of the authors' code: biases counted, weights drawn twice, BN in eval mode."""
    return replace(experiment, **PAPER_PROTOCOL)


def cifar_on_disk() -> str:
    """Return which CIFAR-10 is at hand: the published files, or else their JPEG copy."""
    return "cifar-10" if whereabouts()["cifar-10"] else "cifar-10-jpeg75"
