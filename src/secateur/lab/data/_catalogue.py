"""The data sets by name, and the one function that loads any of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from secateur._base.errors import SecateurError, nearest
from secateur.lab.data._dataset import Dataset, Examples, Raw, digest, moments, split, to_float
from secateur.lab.data._find import Source, cache_folder, contents, find, require
from secateur.lab.data._sources import SOURCES
from secateur.lab.repeat import ArtefactError, read_tensors, write_tensors

Folder = str | os.PathLike[str] | None


def catalogue() -> dict[str, Source]:
    """Return the known data sets by name.

    >>> list(catalogue())
    ['digits', 'mnist', 'fashion-mnist', 'cifar-10', 'cifar-10-jpeg75']
    """
    return dict(SOURCES)


def whereabouts(data_dir: Folder = None) -> dict[str, str | None]:
    """Return, for each data set, in words where it is, or None; files are looked for, not opened.

    Args:
        data_dir: searched first, as in `load`.

    >>> whereabouts()["digits"]
    'in the package'
    """
    places: dict[str, str | None] = {}
    for name, source in SOURCES.items():
        found = find(source, data_dir)
        places[name] = None if found is None else str(found[0])
        if not source.variants:
            places[name] = "in the package"
    return places


def look_for(name: str, *, data_dir: Folder = None) -> None:
    """Refuse a data set that `load` would not find; its files are looked for, not opened.

    Raises:
        DataError: with the folders searched and the way out.
    """
    if SOURCES[name].variants:
        require(SOURCES[name], data_dir)


def load(
    name: str = "digits",
    *,
    data_dir: Folder = None,
    validation: float = 0.1,
    standardise: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Load a data set as whole tensors on a device.

    Standardised: x ← (x / levels − mean) / std, with mean and std of all published training images, per
    channel (so one of each for grey images), taken before the validation set is cut off, as in the authors'
    code of SNIP (arXiv 1810.02340, `namhoonlee/snip-public`).

    Args:
        name: a name of `catalogue()`.
        data_dir: searched first; then `$SECATEUR_DATA`, then `~/.cache/secateur`.
        validation: the fraction of the training set held out (the paper's 10 %); 0 holds nothing out.
        standardise: False gives raw pixels in [0, 1].
        seed: decides which examples are held out.
        device: where the tensors are made.
        dtype: floating point type of the inputs.

    Raises:
        SecateurError: unknown name, `validation` outside [0, 1).
        DataError: the files are not found, or are not the published ones.

    >>> data = load("digits")
    >>> len(data.train), len(data.validation), len(data.test), data.shape
    (1298, 144, 355, (1, 8, 8))
    """
    if name not in SOURCES:
        known = ", ".join(SOURCES)
        raise SecateurError(f"`name` must be one of {known}, got {name!r}.{nearest(name, SOURCES)}")
    source, place = SOURCES[name], torch.device(device)
    split(1, validation, seed)  # refuses a wrong fraction before seconds are spent on reading
    raw, content = _read(source, data_dir)
    mean, std = moments(raw.train_x, raw.levels) if standardise else _identity(raw)
    kept, held = split(len(raw.train_y), validation, seed)

    def examples(x: torch.Tensor, y: torch.Tensor) -> Examples:
        return Examples(to_float(x, mean, std, levels=raw.levels, device=place, dtype=dtype), y.to(place))

    return Dataset(
        name=name,
        title=source.title,
        train=examples(raw.train_x[kept], raw.train_y[kept]),
        validation=examples(raw.train_x[held], raw.train_y[held]),
        test=examples(raw.test_x, raw.test_y),
        shape=tuple(raw.train_x.shape[1:]),
        classes=raw.classes,
        mean=mean,
        std=std,
        digest=content,
        note=source.note,
        augment=source.augment,
    )


def _identity(raw: Raw) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = raw.train_x.shape[1]
    return (0.0,) * channels, (1.0,) * channels


def _read(source: Source, data_dir: Folder) -> tuple[Raw, str]:
    """Read a data set, by way of the cache where decoding is slow; with it, the digest of its content."""
    files = contents(source, data_dir)
    if not source.slow:
        raw = source.read(files)
        return raw, digest(raw)
    key = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
    path = cache_folder() / f"{source.name}-{key}.safetensors"
    cached = _cached(path)
    if cached is not None:
        return cached
    raw = source.read(files)
    content = digest(raw)
    _cache(path, raw, content)
    return raw, content


def _cached(path: Path) -> tuple[Raw, str] | None:
    try:
        tensors, about = read_tensors(path)
        raw = Raw(**tensors, levels=about["levels"], classes=tuple(about["classes"]))
        return (raw, about["digest"]) if digest(raw) == about["digest"] else None
    except (OSError, ArtefactError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # not there yet, or damaged: it is decoded again


def _cache(path: Path, raw: Raw, content: str) -> None:
    parts = {"train_x": raw.train_x, "train_y": raw.train_y, "test_x": raw.test_x, "test_y": raw.test_y}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, parts, {"levels": raw.levels, "classes": raw.classes, "digest": content})
    except OSError:
        pass  # a cache that cannot be written (full disk, read-only home) costs seconds, not the run
