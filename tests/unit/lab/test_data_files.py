"""Files of data sets: decoded from bytes made here, looked for in order, refused when not the published ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.lab import data
from secateur.lab.data._dataset import Raw
from secateur.lab.data._find import Published, cache_folder
from secateur.lab.data._formats import cifar_records, idx, read_cifar, read_jpegs
from secateur.lab.data._sources import SOURCES

_RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set of this machine is in reach."""
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def _records(n: int) -> np.ndarray:
    table = _RANDOM.integers(0, 256, (n, 3073), dtype=np.uint8)
    table[:, 0] = np.arange(n) % 10
    return table


def test_idx_holds_sizes_then_values() -> None:
    values = _RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    assert np.array_equal(idx(_idx_bytes(values)).numpy(), values)
    assert np.array_equal(idx(gzip.compress(_idx_bytes(values))).numpy(), values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an IDX file of bytes: it must begin with 00 00 08, got nothing."),
        (b"\0\0\x0d\x01", "not an IDX file of bytes: it must begin with 00 00 08, got 00 00 0d 01."),
        (b"\0\0\x08\x03\0\0", "not an IDX file of bytes: it must begin with 00 00 08, got 00 00 08 03."),
        (b"\0\0\x08\x01\0\0\0\x05abc", "an IDX file of shape (5,) must hold 5 bytes, got 3."),
    ],
)
def test_idx_refuses_what_it_is_not(content: bytes, said: str) -> None:
    with pytest.raises(data.DataError) as caught:
        idx(content)
    assert str(caught.value) == said


def test_cifar_records_are_a_label_and_three_planes() -> None:
    table = _records(4)
    x, y = cifar_records(table.tobytes())
    assert y.tolist() == [0, 1, 2, 3]
    assert x.shape == (4, 3, 32, 32)
    assert x[2, 1, 5, 7] == table[2, 1 + 1024 + 5 * 32 + 7]
    with pytest.raises(data.DataError, match="3073 bytes each, got a file of 10 bytes"):
        cifar_records(b"0123456789")


def _cifar_files() -> dict[str, bytes]:
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    return {f"cifar-10-batches-bin/{name}": _records(3).tobytes() for name in names}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _as_published(monkeypatch: pytest.MonkeyPatch, name: str, files: Mapping[str, bytes]) -> None:
    variant = tuple(Published(path, hashlib.md5(content).hexdigest()) for path, content in files.items())
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], variants=(variant,)))


def _lay(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_cifar_is_the_same_packed_and_unpacked() -> None:
    files = _cifar_files()
    unpacked, packed = read_cifar(files), read_cifar({"cifar-10-binary.tar.gz": _archive(files)})
    assert unpacked.train_x.shape == (15, 3, 32, 32) and unpacked.test_y.tolist() == [0, 1, 2]
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(unpacked, part), getattr(packed, part))
    first = np.frombuffer(files["cifar-10-batches-bin/data_batch_1.bin"], np.uint8)
    assert np.array_equal(unpacked.train_x[0].numpy().ravel(), first[1:3073])


def test_an_archive_without_its_files_is_refused() -> None:
    with pytest.raises(data.DataError, match=r"must hold data_batch_1.bin, .*test_batch.bin"):
        read_cifar({"cifar-10-binary.tar.gz": _archive({"../../etc/evil": b"x"})})


def test_cifar_loads_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _cifar_files()
    _as_published(monkeypatch, "cifar-10", files)
    _lay(tmp_path, files)
    loaded = data.load("cifar-10", data_dir=tmp_path, validation=0.2)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (12, 3, 3)
    assert loaded.augment is data.flip_and_shift and loaded.classes[9] == "truck"
    both = torch.cat([loaded.train.x, loaded.validation.x])
    assert torch.allclose(both.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(both.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_folders_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _cifar_files()
    _as_published(monkeypatch, "cifar-10", files)
    places = [tmp_path / "cache" / "secateur", tmp_path / "env", tmp_path / "named"]
    monkeypatch.setenv("SECATEUR_DATA", str(places[1]))
    assert data.whereabouts(places[2])["cifar-10"] is None
    for place in places:  # each hides the one before
        _lay(place, files)
        assert data.whereabouts(places[2])["cifar-10"] == str(place)
    assert data.whereabouts()["cifar-10"] == str(places[1])


def test_an_incomplete_folder_does_not_hide_a_complete_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _cifar_files()
    _as_published(monkeypatch, "cifar-10", files)
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "whole"))
    _lay(tmp_path / "whole", files)
    _lay(tmp_path / "part", dict(list(files.items())[:3]))
    assert data.whereabouts(tmp_path / "part")["cifar-10"] == str(tmp_path / "whole")


def test_missing_files_are_asked_for_with_every_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", data_dir=tmp_path / "here")
    said = str(caught.value)
    assert said.splitlines()[:4] == [
        "MNIST was not found. Looked for MNIST/raw/train-images-idx3-ubyte.gz and 3 more in",
        f"  {tmp_path / 'here'}  (data_dir)",
        f"  {tmp_path / 'cache' / 'secateur'}  (the cache)",
        "  $SECATEUR_DATA is not set",
    ]
    assert f"{tmp_path / 'here'}/MNIST/raw/train-images-idx3-ubyte.gz exists" in said
    assert "yann.lecun.com/exdb/mnist" in said and "--data-dir FOLDER" in said
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "env"))
    with pytest.raises(data.DataError, match=r"\(\$SECATEUR_DATA\)"):
        data.load("mnist")


def test_pickled_and_jpeg_copies_are_named_but_not_taken(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar10_jpeg75.npz").touch()
    with pytest.raises(data.DataError) as caught:
        data.load("cifar-10", data_dir=tmp_path)
    said = str(caught.value)
    assert f"{tmp_path / 'cifar-10-batches-py'} is there, but it is made of pickles" in said
    assert "load it by its own name, cifar-10-jpeg75." in said


def test_a_file_with_another_md5_is_refused(tmp_path: Path) -> None:
    variant = SOURCES["mnist"].variants[0]
    _lay(tmp_path, {file.path: b"not mnist" for file in variant})
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", data_dir=tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / variant[0].path} is not the published file: its md5 must be f68b3c2dcb")
    assert f"got {hashlib.md5(b'not mnist').hexdigest()} (9 bytes; was a download cut off?)" in said


def _jpeg_npz(path: Path, *, n: int = 4) -> list[np.ndarray]:
    """Write an .npz of n training and n test images; return the training images as Pillow decodes them."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array([f"class {k}" for k in range(10)])}
    decoded = []
    for part in ("train", "test"):
        files = []
        for _ in range(n):
            buffer = io.BytesIO()
            pixels = _RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
            files.append(buffer.getvalue())
            if part == "train":
                decoded.append(np.asarray(Image.open(io.BytesIO(files[-1]))))
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{part}_labels"] = np.arange(n, dtype=np.uint8)
    np.savez(path, **arrays)
    return decoded


def test_jpegs_are_decoded_once_and_then_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = _jpeg_npz(tmp_path / "cifar10_jpeg75.npz")
    loaded = data.load("cifar-10-jpeg75", data_dir=tmp_path, standardise=False, validation=0)
    expected = np.stack(decoded).transpose(0, 3, 1, 2) / np.float32(255)
    assert np.allclose(loaded.train.x.numpy(), expected, atol=1e-7)
    (cached,) = (tmp_path / "cache" / "secateur").iterdir()
    assert cached.name.startswith("cifar-10-jpeg75-") and cached.suffix == ".safetensors"

    calls = []

    def counted(files: Mapping[str, bytes]) -> Raw:
        calls.append(1)
        return read_jpegs(files)

    monkeypatch.setitem(SOURCES, "cifar-10-jpeg75", replace(SOURCES["cifar-10-jpeg75"], read=counted))
    again = data.load("cifar-10-jpeg75", data_dir=tmp_path, standardise=False, validation=0)
    assert not calls and again.digest == loaded.digest and torch.equal(again.train.x, loaded.train.x)
    damaged = bytearray(cached.read_bytes())
    damaged[-1] ^= 1  # one bit of one pixel: the digest notices
    cached.write_bytes(damaged)
    assert data.load("cifar-10-jpeg75", data_dir=tmp_path).digest == loaded.digest and calls == [1]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _jpeg_npz(tmp_path / "cifar10_jpeg75.npz")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(data.load("cifar-10-jpeg75", data_dir=tmp_path, validation=0).train) == 4


def _npz_of(**arrays: object) -> dict[str, np.ndarray]:
    """Arrays as `_jpeg_npz` writes them, of one image each, with some of them others."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG")
    jpeg = np.frombuffer(buffer.getvalue(), np.uint8)
    found = {"class_names": np.array(["a"])}
    for part in ("train", "test"):
        plain = {"jpeg": jpeg, "offsets": np.array([0, len(jpeg)]), "labels": np.zeros(1, np.uint8)}
        found |= {f"{part}_{name}": np.asarray(arrays.get(name, plain[name])) for name in plain}
    return found


def _large_image() -> np.ndarray:
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"jpeg": np.zeros(1 << 26, np.uint8)}, "it claims to unpack to 134,"),
        ({"offsets": np.zeros(1 << 20, np.int64)}, "its offsets are no places of JPEG files"),
        ({"offsets": np.array([0, 1 << 60])}, "its offsets go from 0 to 1152921504606846976"),
        ({"offsets": np.array([-500, 300])}, "its offsets go from -500 to 300"),
        ({"offsets": np.array([], np.int64)}, "its offsets are no places of JPEG files"),
        ({"jpeg": _large_image(), "offsets": [0, len(_large_image())]}, "image 0 has 8000 × 8000 pixels, not 32 × 32"),
    ],
)
def test_an_npz_is_not_believed(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    np.savez_compressed(tmp_path / "cifar10_jpeg75.npz", **_npz_of(**arrays))
    with pytest.raises(data.DataError, match=rf"is not the \.npz of JPEG files it should be: {re.escape(why)}"):
        data.load("cifar-10-jpeg75", data_dir=tmp_path)


@pytest.mark.parametrize("arrays", [{"x": np.zeros(3)}, {"train_jpeg": np.array([{"a": 1}], dtype=object)}])
def test_another_npz_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "cifar10_jpeg75.npz", **arrays)
    with pytest.raises(data.DataError, match=r"is not the \.npz of JPEG files it should be"):
        data.load("cifar-10-jpeg75", data_dir=tmp_path)


def test_the_cache_is_under_home_unless_the_desktop_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path(os.path.expanduser("~/.cache/secateur"))
