"""Published files brought here: whole or not at all, checked, and from where a broken download left off."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from secateur._base.errors import SecateurError, nearest
from secateur.lab.data._find import DataError, Published, Source, cache_folder
from secateur.lab.data._sources import SOURCES

#: Where the files of a data set are published; each lies there under the last part of its path.
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "cifar-10": "https://www.cs.toronto.edu/~kriz/",
}
_BLOCK = 1 << 18
#: Told while a file comes: its name, bytes that are here, bytes in all (None where the server does not say).
OnBytes = Callable[[str, int, int | None], None]


def get(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    on_bytes: OnBytes | None = None,
    timeout: float = 30.0,
) -> list[Path]:
    """Bring the files of a published data set here, check their md5, and lay them where `load` finds them.

    A file that is here already is checked and left alone. What an interrupted download brought stays as `NAME.part`,
    and the next one goes on behind it; a file gets its name only when its md5 is the published one.

    Args:
        name: mnist, fashion-mnist or cifar-10.
        folder: where the data go; None means `$SECATEUR_DATA`, or else `~/.cache/secateur`.
        address: a mirror to take them from, a folder on a web server; None means where they are published.
        on_bytes: told of progress.
        timeout: seconds without a byte after which the server is given up.

    Returns:
        The files, in the order of the data set.

    Raises:
        SecateurError: there is no such data set to get.
        DataError: the server does not give a file, or gives another than the published one.
        OSError: they cannot be written here.
    """
    if name not in ADDRESSES:
        raise SecateurError(f"`name` must be one of {', '.join(ADDRESSES)}, got {name!r}.{nearest(name, ADDRESSES)}")
    base = address or ADDRESSES[name]
    if not base.startswith(("http://", "https://")):
        raise SecateurError(f"`address` must begin with http:// or https://, got {base!r}.")
    place = Path(folder or os.environ.get("SECATEUR_DATA") or cache_folder()).expanduser()
    source = SOURCES[name]
    return [_brought(source, f, place, f"{base.rstrip('/')}/", on_bytes, timeout) for f in source.variants[-1]]


def _brought(source: Source, file: Published, place: Path, base: str, on_bytes: OnBytes | None, timeout: float) -> Path:
    path = place / file.path
    if path.exists() and _md5(path) == file.md5:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, url = path.with_name(f"{path.name}.part"), base + path.name
    try:
        _fetch(url, part, on_bytes, timeout)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as problem:
        reason = getattr(problem, "reason", problem)
        raise DataError(
            f"{url} did not come: {reason}. The same command goes on behind what is here; another server is named by "
            f"address=URL or --from URL. Or get the files from {source.origin}."
        ) from problem
    found = _md5(part)
    if found != file.md5:
        size = part.stat().st_size
        part.unlink()
        raise DataError(f"{url} is not the published file: its md5 must be {file.md5}, got {found} ({size:,} bytes).")
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path, on_bytes: OnBytes | None, timeout: float) -> None:
    """Append what is missing of a file; from its beginning where the server does not know ranges."""
    here = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={here}-"} if here else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as problem:
        if problem.code == 416 and here:  # nothing is missing: the md5 says whether it is right
            return
        raise
    with answer, open(part, "ab" if answer.status == 206 else "wb") as file:
        done = here if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else done + int(length)
        while block := answer.read(_BLOCK):
            file.write(block)
            done += len(block)
            if on_bytes is not None:
                on_bytes(part.name.removesuffix(".part"), done, whole)
    if whole is not None and done < whole:
        raise ConnectionError(f"it broke off after {done:,} of {whole:,} bytes")


def _md5(path: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
