"""Files say when a bit of them has changed, and are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from secateur._base.errors import MaskError, told
from secateur._base.files import CHECKSUM, opened_json, sealed_json, write_whole
from secateur._base.text import shown
from secateur.lab.repeat import ArtefactError, read_json, read_tensors, write_json, write_tensors
from secateur.masks import Masks

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, -1], dtype=torch.int8)}


def flips(whole: bytes) -> list[bytes]:
    """The file with one bit flipped, in each of its bytes another one."""
    found = []
    for place in range(len(whole)):
        other = bytearray(whole)
        other[place] ^= 1 << (place * 3) % 8
        found.append(bytes(other))
    return found


def test_a_flipped_bit_of_a_tensor_file_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, refused = tmp_path / "t.safetensors", 0
    write_tensors(path, TENSORS, {"step": 3})
    whole = path.read_bytes()
    for content in flips(whole):
        path.write_bytes(content)
        try:
            tensors, about = read_tensors(path)
        except ArtefactError as problem:
            assert str(path) in str(problem) and "Delete it and run again" in str(problem)
            refused += 1
        else:  # a flip in the checksum's own name
            assert about == {"step": 3} and tensors.keys() == TENSORS.keys()
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert len(whole) - len(CHECKSUM) <= refused < len(whole)


def test_a_flipped_bit_of_a_mask_file_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, masks, refused = tmp_path / "m.safetensors", Masks({"w": torch.eye(3) > 0, "v": torch.ones(9) > 0}), 0
    masks.save(path)
    whole = path.read_bytes()
    for content in flips(whole):
        path.write_bytes(content)
        try:
            assert Masks.load(path) == masks
        except MaskError as problem:
            assert str(path) in str(problem)
            refused += 1
    assert len(whole) - len(CHECKSUM) <= refused < len(whole)


def test_a_flipped_bit_of_a_json_file_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, content = tmp_path / "r.json", {"test_error": 0.125, "name": "ü", "curve": [1, 2.5e-7, None]}
    write_json(path, content)
    whole, refused = path.read_bytes(), 0
    for other in flips(whole):
        path.write_bytes(other)
        try:
            found = read_json(path)
        except ArtefactError as problem:
            assert "r.json is damaged" in str(problem)
            refused += 1
        else:
            assert {name: found[name] for name in content} == content
    assert refused > len(whole) // 2


def test_the_checksum_is_that_of_zlib_over_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", TENSORS)
    whole = (tmp_path / "t").read_bytes()
    with safe_open(tmp_path / "t", framework="pt") as file:
        said = file.metadata()[CHECKSUM]
    assert whole.count(said.encode()) == 1
    assert f"{zlib.crc32(whole.replace(said.encode(), b'0' * 8)):08x}" == said
    assert load_file(tmp_path / "t").keys() == TENSORS.keys()  # a safetensors file like any other
    assert int.from_bytes(whole[:8], "little") % 8 == 0


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t.safetensors", metadata={"about": '{"step": 3}'})
    assert read_tensors(tmp_path / "t.safetensors")[1] == {"step": 3}
    (tmp_path / "r.json").write_text('{"x": 1}')
    assert read_json(tmp_path / "r.json") == {"x": 1}
    header = {"format": "secateur.masks", "version": "1", "bits": "big", "shapes": '{"w": [2, 3]}'}
    save_file({"w": torch.tensor([0b10100000], dtype=torch.uint8)}, tmp_path / "m", metadata=header)
    assert Masks.load(tmp_path / "m")["w"].tolist() == [[True, False, True], [False, False, False]]


def test_equal_masks_are_equal_bytes(tmp_path: Path) -> None:
    masks = Masks({name: torch.arange(size) % 3 == 0 for name, size in (("z", 40), ("a", 3), ("m", 8))})
    masks.save(tmp_path / "first")
    for index in range(20):  # safetensors itself orders the texts of a header anew at each call
        Masks.load(tmp_path / "first").save(tmp_path / str(index))
        assert (tmp_path / str(index)).read_bytes() == (tmp_path / "first").read_bytes()


def test_json_may_be_laid_out_anew_and_says_how_to_change_it(tmp_path: Path) -> None:
    content = json.loads(sealed_json({"b": 1.5, "a": (1, 2)}))
    again = json.dumps(dict(reversed(content.items()))).replace("\n", "\r\n").encode()
    assert opened_json(again) == {"a": [1, 2], "b": 1.5}
    (tmp_path / "r.json").write_text(json.dumps(content | {"b": 2.5}))
    with pytest.raises(ArtefactError, match=r"its checksum is .* changed on purpose, take out the entry 'secateur"):
        read_json(tmp_path / "r.json")
    del content[CHECKSUM]
    assert opened_json(json.dumps(content | {"b": 2.5}).encode()) == {"a": [1, 2], "b": 2.5}


@pytest.mark.parametrize(
    "text", ["NaN", '{"x": Infinity}', '{"x": 1e999}', "1" + "0" * 400, "[" * 100_000, '{"a":' * 100_000]
)
def test_json_that_nothing_here_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a finite number|nested too deeply"):
        opened_json(text.encode())


def fails_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    fails_with(errno.ENOSPC, monkeypatch)
    with pytest.raises(OSError) as caught:
        write_whole(path, b"new")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert told(caught.value).startswith(f"{path}: no space left on device. Free some space")
    assert os.listdir(tmp_path) == ["x"] and path.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_limit_on_the_size_of_files_leaves_nothing(tmp_path: Path) -> None:
    import resource

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / "x", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert shown("0.weight ü κ") == "0.weight ü κ"
    assert shown("a\x1b[2J\x07\x9b\u202e\r\n\udc80") == r"a\x1b[2J\x07\x9b\u202e\r\n\udc80"
    assert shown("a\n\tb", lines=True) == "a\n\\tb"
