"""How a network is trained: optimizer, learning rate, batch and length as one value; recipes by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from secateur._base.errors import SecateurError, nearest


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum: v ← μ·v + g + λ·w + λ₁·sign(w), then w ← w − η·v.

    Args:
        momentum: μ.
        weight_decay: λ, added to the gradient (L2).
        nesterov: look ahead along v: w ← w − η·(g + λ·w + μ·v).
        l1: λ₁, times the sign of each parameter, added to the gradient (L1); a weight at zero is not moved by it.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    l1: float = 0.0


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980, Algorithm 1); `weight_decay` is added to the gradient (L2)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Stairs:
    """A learning rate that falls by a factor at fixed intervals: η(t) = start · factor^⌊t / every⌋.

    >>> rate = Stairs(start=0.1, every=25_000)
    >>> round(rate(24_999), 6), round(rate(25_000), 6)
    (0.1, 0.01)
    """

    start: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 0."""
        return self.start * self.factor ** (step // self.every)


@dataclass(frozen=True)
class Constant:
    """A learning rate that never changes."""

    value: float

    def __call__(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`."""
        return self.value


@dataclass(frozen=True)
class Ramp:
    """A learning rate that rises linearly for `warmup` steps, then falls along half a cosine to 0 at `steps`.

    η(t) = peak·(t+1)/warmup while t < warmup, then peak·(1 + cos(π·(t − warmup)/(steps − warmup)))/2: the
    shape that gets most out of a short run (Loshchilov and Hutter, arXiv 1608.03983, eq. 5, one period; Goyal
    et al., arXiv 1706.02677).
    """

    peak: float
    steps: int
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.peak * (1.0 + math.cos(math.pi * done)) / 2.0


@dataclass(frozen=True)
class Recipe:
    """A training run but for its data, model and seed. The name is a label: equal contents are one recipe.

    Args:
        steps: optimizer steps in all.
        rate: learning rate as a function of the step.
        optimizer: `Sgd` or `Adam`.
        batch: examples per step.
        augment: apply the data set's augmentation (`Dataset.augment`) to the training batches.
        evaluate_every: steps between two evaluations on the validation and the test set; 0 means once per
            epoch.
        name: what the command line calls it.

    Raises:
        SecateurError: for a length, batch or interval that is not positive.
    """

    steps: int
    rate: Stairs | Constant | Ramp
    optimizer: Sgd | Adam = Sgd()
    batch: int = 100
    augment: bool = False
    evaluate_every: int = 0
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for what, value, least in (
            ("steps", self.steps, 1),
            ("batch", self.batch, 1),
            ("evaluate_every", self.evaluate_every, 0),
        ):
            if value < least:
                raise SecateurError(f"`{what}` must be at least {least}, got {value}.")


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """Return the same recipe squeezed or stretched to `steps`, its learning rate schedule scaled along.

    >>> shortened(RECIPES["paper-mnist"], 10_000).rate
    Stairs(start=0.1, every=2500, factor=0.1)
    """
    if steps < 1:
        raise SecateurError(f"`steps` must be at least 1, got {steps}.")

    def scaled(length: int) -> int:
        return max(1, round(length * steps / recipe.steps))

    rate = recipe.rate
    if isinstance(rate, Stairs):
        rate = replace(rate, every=scaled(rate.every))
    elif isinstance(rate, Ramp):
        rate = replace(rate, steps=steps, warmup=scaled(rate.warmup) if rate.warmup else 0)
    return replace(recipe, steps=steps, rate=rate, name="")


def recipe(name: str) -> Recipe:
    """Return a recipe of `RECIPES` by name; a wrong name is an error that says the nearest."""
    if name not in RECIPES:
        raise SecateurError(f"`recipe` must be one of {', '.join(RECIPES)}, got {name!r}.{nearest(name, RECIPES)}")
    return RECIPES[name]


_ALL = (
    # digits in about a second: 1,300 images, so a step is an eleventh of an epoch or so
    Recipe(steps=600, rate=Ramp(peak=0.1, steps=600, warmup=30), evaluate_every=100, name="demo"),
    # MNIST in about a minute: 30 epochs of 54,000 images
    Recipe(steps=16_200, rate=Ramp(peak=0.1, steps=16_200, warmup=270), evaluate_every=540, name="short"),
    # the same at a rate that dense LeNet-5-Caffe, linear up to its first hidden layer, survives
    Recipe(steps=16_200, rate=Ramp(peak=0.03, steps=16_200, warmup=270), evaluate_every=540, name="gentle"),
    # SNIP (arXiv 1810.02340) section 5: lr 0.1, divided by 10 every 25,000 (MNIST) or 30,000 (CIFAR-10)
    # iterations
    Recipe(steps=100_000, rate=Stairs(start=0.1, every=25_000), name="paper-mnist"),
    Recipe(steps=150_000, rate=Stairs(start=0.1, every=30_000), batch=128, augment=True, name="paper-cifar"),
    # the same paper's Table 3 trains with Adam at 1e-3 without decay; its length is not printed, so MNIST's
    # is taken
    Recipe(steps=100_000, rate=Constant(1e-3), optimizer=Adam(), name="paper-adam"),
    # the same at a rate that falls to zero, as the authors of variational dropout train (theirs falls linearly)
    Recipe(steps=54_000, rate=Ramp(peak=1e-3, steps=54_000), optimizer=Adam(), name="adam"),
)

#: The recipes by name, as the command line's `--recipe` takes them.
RECIPES: Mapping[str, Recipe] = MappingProxyType({known.name: known for known in _ALL})
