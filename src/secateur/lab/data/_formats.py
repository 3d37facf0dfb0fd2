"""The published files of each data set, as tensors: IDX, CIFAR's records, JPEGs end to end, digits."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from math import prod
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

from secateur._base.types import Tensor
from secateur.lab.data._dataset import Raw
from secateur.lab.data._find import DataError

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BESIDES = 1 << 24  # bytes of labels and offsets, which do become smaller
_SMALLEST_JPEG = 100  # bytes
_UNREADABLE = (ValueError, KeyError, OSError, ArithmeticError, BadZipFile, zlib.error)
_DIGITS_MD5 = "6744eb5522f60ec1b9f1825a2b8e6fc1"
_CIFAR_RECORD = 1 + 3 * 32 * 32  # one byte of class, then the red, the green and the blue plane


def idx(content: bytes) -> Tensor:
    """Decode an IDX file of bytes: 0, 0, 8 (unsigned byte), number of dimensions, their sizes, the values.

    Args:
        content: the file, gzip-compressed or not.

    Raises:
        DataError: it is no such file, or its length does not fit its header.
    """
    data = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"not an IDX file of bytes: it must begin with 00 00 08, got {data[:4].hex(' ') or 'nothing'}.")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=data[3], offset=4))
    start = 4 + 4 * data[3]
    if len(data) - start != prod(shape):
        raise DataError(f"an IDX file of shape {shape} must hold {prod(shape)} bytes, got {len(data) - start}.")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def read_idx(files: Mapping[str, bytes], classes: tuple[str, ...]) -> Raw:
    """Turn the four IDX files (train images and labels, test images and labels) into tensors."""
    train_x, train_y, test_x, test_y = (idx(content) for content in files.values())
    return Raw(train_x[:, None], train_y.long(), test_x[:, None], test_y.long(), 255, classes)


def cifar_records(content: bytes) -> tuple[Tensor, Tensor]:
    """Decode CIFAR-10's binary records into images [n, 3, 32, 32] and classes [n].

    Raises:
        DataError: the length is no multiple of a record's 3,073 bytes.
    """
    if not content or len(content) % _CIFAR_RECORD:
        raise DataError(f"CIFAR-10 records are {_CIFAR_RECORD} bytes each, got a file of {len(content)} bytes.")
    table = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD).copy())
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()


def read_cifar(files: Mapping[str, bytes]) -> Raw:
    """Turn the six binary files of CIFAR-10, or the archive that holds them, into tensors."""
    by_name = {path.rsplit("/", 1)[-1]: content for path, content in files.items()}
    archive = by_name.get("cifar-10-binary.tar.gz")
    if archive is not None:
        by_name = _members(archive)
    names = [f"data_batch_{k}.bin" for k in range(1, 6)]
    missing = [name for name in [*names, "test_batch.bin"] if name not in by_name]
    if missing:
        raise DataError(f"cifar-10-binary.tar.gz must hold {', '.join(missing)}.")
    train = [cifar_records(by_name[name]) for name in names]
    test_x, test_y = cifar_records(by_name["test_batch.bin"])
    train_x, train_y = (torch.cat(parts) for parts in zip(*train, strict=True))
    return Raw(train_x, train_y, test_x, test_y, 255, CIFAR_CLASSES)


def _members(archive: bytes) -> dict[str, bytes]:
    """Read the archive's files in memory: nothing is unpacked onto the disk, so no path in it can do harm."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        opened = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        return {name.rsplit("/", 1)[-1]: file.read() for name, file in opened if file is not None}


def read_jpegs(files: Mapping[str, bytes]) -> Raw:
    """Turn an .npz of JPEG files, laid end to end and found by offsets, into tensors.

    Raises:
        DataError: Pillow is missing, or the file is no such .npz (object arrays are not opened: they are pickles).
    """
    ((path, content),) = files.items()
    try:
        _refuse_bomb(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            train, test = (
                (
                    _decoded(arrays[f"{part}_jpeg"].tobytes(), arrays[f"{part}_offsets"].tolist()),
                    torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64)),
                )
                for part in ("train", "test")
            )
            classes = tuple(str(name) for name in arrays["class_names"])
    except DataError:
        raise
    except (*_UNREADABLE, MemoryError, NotImplementedError) as problem:
        raise DataError(f"{path} is not the .npz of JPEG files it should be: {problem}") from None
    return Raw(*train, *test, 255, classes)


def _refuse_bomb(content: bytes) -> None:
    """Refuse an archive that unpacks to far more than it is: JPEG files hardly become smaller."""
    with ZipFile(io.BytesIO(content)) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > 4 * len(content) + _BESIDES:
        raise ValueError(f"it claims to unpack to {claimed:,} bytes, and has {len(content):,}")


def _decoded(jpegs: bytes, offsets: list[int]) -> Tensor:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("decoding JPEG needs Pillow: pip install '.[lab]' in a clone of Secateur.") from None
    if not offsets or any(stop - start < _SMALLEST_JPEG for start, stop in pairwise([0, *offsets[1:]])):
        raise ValueError("its offsets are no places of JPEG files, one after another")
    if offsets[0] != 0 or offsets[-1] > len(jpegs):
        raise ValueError(
            f"its offsets go from {offsets[0]} to {offsets[-1]}, and its JPEG files are {len(jpegs)} bytes"
        )
    images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
    for i, (start, stop) in enumerate(pairwise(offsets)):
        try:
            image = Image.open(io.BytesIO(jpegs[start:stop]), formats=("JPEG",))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
            raise ValueError(str(problem)) from None
        if image.size != (32, 32):  # looked at before it is decoded
            raise ValueError(f"image {i} has {image.size[0]} × {image.size[1]} pixels, not 32 × 32")
        images[i] = np.asarray(image.convert("RGB"))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read_digits(files: Mapping[str, bytes]) -> Raw:
    """Return the digits that lie in the package, every fifth image of each class (5th, 10th, …) held out for testing.

    No randomness, so that the test set is the same for everyone for ever; stratified by construction.

    Raises:
        DataError: the installed file is damaged.
    """
    content = (resources.files("secateur.lab.data") / "bundled" / "digits.u8.gz").read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _DIGITS_MD5:
        raise DataError("the digits in the package are damaged: install it again.")
    table = torch.from_numpy(np.frombuffer(gzip.decompress(content), np.uint8).reshape(-1, 65).copy())
    x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
    rank = torch.stack([(y == label).cumsum(0) for label in range(10)])[y, torch.arange(len(y))]
    test = rank % 5 == 0
    return Raw(x[~test], y[~test], x[test], y[test], 16, tuple("0123456789"))
