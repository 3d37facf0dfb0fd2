"""The value that loading gives: three sets of tensors, standardised by the training set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from secateur._base.errors import SecateurError
from secateur._base.types import Float, Int, Tensor
from secateur.lab.data._augment import Augment
from secateur.lab.repeat import generator


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their classes.

    Args:
        x: inputs, one per row of the first dimension.
        y: classes, 0 … num_classes−1.
    """

    x: Float[Tensor, " n *shape"]
    y: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Examples({len(self)} of shape {tuple(self.x.shape[1:])}, {self.x.dtype}, {self.x.device})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, ready to train on: whole, as tensors on one device.

    Args:
        name: what `load` calls it.
        title: what to call it wherever a result stands.
        train, validation, test: the three sets; validation is cut from the published training set.
        shape: of one input, (channel, row, column).
        classes: their names, by class number.
        mean, std: what was subtracted and divided by, one per channel, in units of the [0, 1] pixel scale.
        digest: 16 hexadecimal digits (SHA-256) of the pixels and labels before standardising and splitting.
        note: where the data are from and what is not canonical about them.
        augment: the augmentation that is usual for these data; None where there is none.
    """

    name: str
    title: str
    train: Examples
    validation: Examples
    test: Examples
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    note: str
    augment: Augment | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as published: pixels 0 … levels as bytes [n, channel, row, column], classes as int64."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    levels: int
    classes: tuple[str, ...]


def digest(raw: Raw) -> str:
    """Return 16 hexadecimal digits that name the content of a data set."""
    content = hashlib.sha256()
    for tensor in (raw.train_x, raw.train_y, raw.test_x, raw.test_y):
        content.update(tensor.contiguous().numpy().data)
    return content.hexdigest()[:16]


def moments(x: Tensor, levels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of bytes [n, channel, …], per channel, on the [0, 1] scale.

    Counted, not summed in floating point: exact, and the same on every machine and for any number of threads.
    With one channel this is the one global mean and deviation of the authors' MNIST code.

    >>> moments(torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8), 255)
    ((0.5,), (0.5,))
    """
    if x.is_floating_point():  # of one's own
        spread = x.double().transpose(0, 1).flatten(1)
        deviations = [each or 1.0 for each in spread.std(dim=1, correction=0).tolist()]  # a constant stays one
        return tuple(spread.mean(dim=1).tolist()), tuple(deviations)
    values = torch.arange(256, dtype=torch.int64)
    means: list[float] = []
    deviations: list[float] = []
    for channel in range(x.shape[1]):
        counts = torch.bincount(x[:, channel].reshape(-1), minlength=256)
        n = int(counts.sum())
        first, second = int((counts * values).sum()), int((counts * values * values).sum())
        means.append(first / n / levels)
        deviations.append((n * second - first * first) ** 0.5 / n / levels)
    return tuple(means), tuple(deviations)


def split(n: int, fraction: float, seed: int) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]]:
    """Return which of `n` examples are trained on and which are held out, each in ascending order.

    The ⌊fraction·n + ½⌋ held out are drawn without replacement from the seed's stream "validation".

    Raises:
        SecateurError: `fraction` is not in [0, 1).

    >>> [len(part) for part in split(60_000, 0.1, seed=0)]
    [54000, 6000]
    """
    if not 0 <= fraction < 1:
        hint = f" Did you mean validation={fraction / 100:g}?" if 1 <= fraction < 100 else ""
        raise SecateurError(f"`validation` must be a fraction in [0, 1), got {fraction:g}.{hint}")
    shuffled = torch.randperm(n, generator=generator(seed, "validation"))
    held = int(n * fraction + 0.5)
    return shuffled[held:].sort().values, shuffled[:held].sort().values


def to_float(
    x: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    levels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return bytes as (x / levels − mean) / std on `device`: bytes travel, floats are made there."""
    channels = 1, -1, *(1 for _ in x.shape[2:])
    scale = torch.tensor([1 / (levels * s) for s in std], device=device).view(channels)
    offset = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(channels)
    return x.to(device).to(torch.float32, copy=True).mul_(scale).sub_(offset).to(dtype)


def shuffle_labels(dataset: Dataset, *, seed: int) -> Dataset:
    """Return the data set with its training labels permuted at random: nothing is left but to memorise.

    Source: Zhang et al., arXiv 1611.03530; the SNIP paper's Figure 4 (arXiv 1810.02340, §5.6). Validation and
    test labels stay true, and the classes keep their frequencies.

    Args:
        dataset: unchanged; images are shared, not copied.
        seed: of the permutation, stream "random labels".
    """
    y = dataset.train.y
    permuted = y[torch.randperm(len(y), generator=generator(seed, "random labels")).to(y.device)]
    note = f"{dataset.note} Training labels permuted at random (seed {seed})."
    return replace(
        dataset, train=Examples(dataset.train.x, permuted), title=f"{dataset.title}, random labels", note=note
    )


def first(dataset: Dataset, count: int) -> Dataset:
    """Return the data set with at most the first `count` examples of each of its three sets: for trying things out.

    Raises:
        SecateurError: `count` is below 1.
    """
    if count < 1:
        raise SecateurError(f"`count` must be at least 1, got {count}.")
    cut = {
        name: Examples(whole.x[:count], whole.y[:count])
        for name, whole in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
    }
    return replace(dataset, **cut, title=f"{dataset.title}, first {count:,}")
