"""Where methods meet: a network, a data set, a length of training, densities. All of them run on two cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from secateur._base.errors import SecateurError, nearest
from secateur.lab.experiment import Recipe, recipe, shortened

_STEPS = 12_000  # of MNIST's and Fashion-MNIST's sheets: 22 epochs of 54,000 images in batches of 100


@dataclass(frozen=True)
class Setting:
    """One sheet of the referee.

    Args:
        name: what the command line calls it, and its file.
        title: the heading of its section.
        model, data: names of the lab.
        recipe: the training of all its runs, dense ones and retraining included.
        densities: what methods that are told one are run at.
        seeds: runs of each cell when nothing else is asked for.
        slim: a network of the same kind with about so many weights: the dense control.
        note: what a reader has to know of it.
    """

    name: str
    title: str
    model: str
    data: str
    recipe: Recipe
    densities: tuple[float, ...]
    seeds: int
    slim: Mapping[float, str] = field(hash=False)
    note: str = ""


#: Perceptrons with no fewer weights than the pruned ones, and as few as that allows: 784·a + a·b + b·10 ≥ ρ · 266,200.
_SLIM_300 = MappingProxyType({0.1: "mlp-784-34-11-10", 0.05: "mlp-784-17-6-10", 0.02: "mlp-784-7-7-10"})

#: LeNet-5 with narrower layers: 25·a + 25·a·b + 16·b·c + c·10 ≥ ρ · 430,500.
_SLIM_5 = MappingProxyType({0.1: "lenet-5-6-16-156", 0.05: "lenet-5-4-11-110", 0.02: "lenet-5-3-7-68"})


def _on_both(
    name: str, title: str, model: str, training: str, seeds: int, slim: Mapping[float, str]
) -> tuple[Setting, Setting]:
    """A network on MNIST and on Fashion-MNIST, otherwise alike."""
    first = Setting(
        f"{name}-mnist",
        f"{title} on MNIST",
        model,
        "mnist",
        shortened(recipe(training), _STEPS),
        (0.1, 0.05, 0.02),
        seeds,
        slim,
    )
    other = replace(first, name=f"{name}-fashion", title=f"{title} on Fashion-MNIST", data="fashion-mnist")
    return first, other


SETTINGS: tuple[Setting, ...] = (
    *_on_both("lenet-300-100", "LeNet-300-100", "lenet-300-100", "short", 5, _SLIM_300),
    *_on_both("lenet-5", "LeNet-5-Caffe with ReLU", "lenet-5-caffe-relu", "gentle", 3, _SLIM_5),
    Setting(
        "lstm-mnist",
        "LSTM of 128 units over the rows of MNIST",
        "lstm-s",
        "mnist",
        shortened(recipe("short"), _STEPS),
        (0.1, 0.05),
        3,
        MappingProxyType({}),
        "No smaller dense control stands here: the lab has no narrower LSTM by name.",
    ),
)


def setting(name: str) -> Setting:
    """Return a setting by name.

    Raises:
        SecateurError: there is none of that name, with the nearest.
    """
    known = {one.name: one for one in SETTINGS}
    if name not in known:
        raise SecateurError(f"`setting` must be one of {', '.join(known)}, got {name!r}.{nearest(name, known)}")
    return known[name]
