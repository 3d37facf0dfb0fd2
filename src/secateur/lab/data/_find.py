"""Where data sets lie: the folders that are searched, the files expected there, and their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur._base.errors import SecateurError
from secateur.lab.data._augment import Augment
from secateur.lab.data._dataset import Raw


class DataError(SecateurError):
    """A data set that is not there, or whose files are not the published ones."""


@dataclass(frozen=True)
class Published:
    """A file of a data set: its path below a searched folder, and its md5 (None where none is published)."""

    path: str
    md5: str | None = None


@dataclass(frozen=True)
class Source:
    """All there is to know of a data set before it is loaded.

    Args:
        name: what `load` calls it.
        title: what to call it wherever a result stands.
        shape: of one input, (channel, row, column).
        num_classes: how many classes there are.
        note: where the data are from and what is not canonical about them.
        read: turns the content of the files, by path, into tensors.
        variants: the sets of files that hold the data; the first complete one is used. Empty: they are in the package.
        origin: where the files are published, in words.
        lookalikes: paths that may be there instead, each with a sentence on why that will not do.
        slow: decoding takes seconds, so the result is kept in the cache.
        augment: the augmentation that is usual for these data.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    num_classes: int
    note: str
    read: Callable[[Mapping[str, bytes]], Raw]
    variants: tuple[tuple[Published, ...], ...] = ()
    origin: str = ""
    lookalikes: tuple[tuple[str, str], ...] = ()
    slow: bool = False
    augment: Augment | None = None


def cache_folder() -> Path:
    """Return where Secateur keeps what it can make again, by default `~/.cache/secateur`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "secateur"


def folders(data_dir: str | os.PathLike[str] | None) -> list[tuple[Path, str]]:
    """Return the folders to search, in order, each with how it came to be searched."""
    named = [] if data_dir is None else [(Path(data_dir).expanduser(), "data_dir")]
    environment = os.environ.get("SECATEUR_DATA")
    if environment:
        named.append((Path(environment).expanduser(), "$SECATEUR_DATA"))
    return [*named, (cache_folder(), "the cache")]


def find(source: Source, data_dir: str | os.PathLike[str] | None = None) -> tuple[Path, tuple[Published, ...]] | None:
    """Return the first folder that holds all files of a variant, and the variant; None if none does."""
    for folder, _ in folders(data_dir):
        for variant in source.variants:
            if all((folder / file.path).is_file() for file in variant):
                return folder, variant
    return None


def require(source: Source, data_dir: str | os.PathLike[str] | None = None) -> tuple[Path, tuple[Published, ...]]:
    """Return what `find` returns, or refuse.

    Raises:
        DataError: the files are not there, with the folders searched and the way out; or a folder that was named does
            not exist, whatever the others hold.
    """
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise DataError(
            f"`data_dir` must be a folder that exists, got {str(data_dir)!r}. Leave it out to search $SECATEUR_DATA "
            "and the cache alone."
        )
    found = find(source, data_dir)
    if found is None:
        raise DataError(_not_found(source, data_dir))
    return found


def contents(source: Source, data_dir: str | os.PathLike[str] | None = None) -> dict[str, bytes]:
    """Read the files of a data set and check their md5.

    Raises:
        DataError: the files are not there (with the folders searched and the way out), or one of them is not
            the published one.
    """
    if not source.variants:
        return {}
    folder, variant = require(source, data_dir)
    return {file.path: _verified(folder / file.path, file.md5, source) for file in variant}


def _verified(path: Path, md5: str | None, source: Source) -> bytes:
    content = path.read_bytes()
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and actual != md5:
        raise DataError(
            f"{path} is not the published file: its md5 must be {md5}, got {actual} ({len(content):,} bytes; "
            f"was a download cut off?). Replace it with the one from {source.origin}."
        )
    return content


def _not_found(source: Source, data_dir: str | os.PathLike[str] | None) -> str:
    searched = folders(data_dir)
    first = source.variants[0][0]
    looked = [f"  {folder}  ({why})" for folder, why in searched]
    if not os.environ.get("SECATEUR_DATA"):
        looked.append("  $SECATEUR_DATA is not set")
    lines = [f"{source.title} was not found. Looked for {_alternatives(source)} in", *looked]
    lines += [
        f"{folder / path} is there, but {why}"
        for folder, _ in searched
        for path, why in source.lookalikes
        if (folder / path).exists()
    ]
    lines.append(
        f"Get it from {source.origin}, so that for instance {searched[0][0] / first.path} exists; or name "
        f"the folder that has it: data_dir=FOLDER, --data-dir FOLDER or SECATEUR_DATA=FOLDER. "
        f"The data set `digits` needs no files."
    )
    return "\n".join(lines)


def _alternatives(source: Source) -> str:
    def words(variant: tuple[Published, ...]) -> str:
        return variant[0].path if len(variant) == 1 else f"{variant[0].path} and {len(variant) - 1} more"

    return " or ".join(words(variant) for variant in source.variants)
