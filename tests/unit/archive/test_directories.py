"""What stands at the beginning of an archive: open to strangers, bounded, and of version 1 as well."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import archive_cases
import secateur as sc
from secateur import Masks, archive
from secateur._base.errors import SecateurError
from secateur.archive._directory import packed_directory, unpack_directory
from secateur.coding import Cursor, number
from secateur.testing import case


def pruned(name: str) -> tuple[nn.Module, Masks]:
    torch.manual_seed(0)
    model = case(name).model
    return model, sc.prune(model, sc.methods.magnitude(0.3))


def test_strangers_read_it_by_safetensors_zlib_and_the_page(tmp_path: Path) -> None:
    model, masks = pruned("conv_bn")
    path = tmp_path / "a.safetensors"
    sc.compress(model, masks, path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "secateur.archive" and file.metadata()["version"] == "2"
        data = file.get_tensor("archive").numpy().tobytes()
    page = (Path(__file__).parents[3] / "docs" / "archive.md").read_text(encoding="utf-8")
    given = page.split("```text\n")[1].split("```")[0].replace("\n", "").encode()
    length, size, at = data[0] & 127 | data[1] << 7, data[2] & 127 | data[3] << 7, 4
    assert data[0] > 127 and data[1] < 128 and data[2] > 127 and data[3] < 128
    text = zlib.decompressobj(-15, zdict=given).decompress(data[at : at + size])
    said, at = json.loads(text), at + size
    assert len(text) == length and said["kind"] == "masked"
    for name, *rest in said["tensors"]:
        want = model.state_dict()[name]
        if len(rest) == 3:
            assert data[at : at + want.nbytes] == want.numpy().tobytes() and rest[:2] == [
                {torch.float32: "F32", torch.int64: "I64"}[want.dtype], list(want.shape)
            ]  # fmt: skip
        at += rest[0] if len(rest) == 1 else want.nbytes
    assert at == len(data)
    with pytest.raises(SecateurError, match=r"is an archive: secateur\.load opens it"):
        sc.shrinking.load(path)


def test_archives_of_version_1_open_as_they_did(tmp_path: Path) -> None:
    for name in ("mlp", "conv_bn", "lstm"):
        model, masks = pruned(name)
        report = sc.compress(model, masks, tmp_path / "new", values=archive.shared(3))
        before = archive.tensors_of(tmp_path / "new")
        (tmp_path / "old").write_bytes(archive_cases.first_version((tmp_path / "new").read_bytes()))
        after = archive.tensors_of(tmp_path / "old")
        assert list(before) and all(torch.equal(after[key], value) for key, value in before.items())
        assert sc.load(tmp_path / "old", case(name).model).masks == masks
        old = archive.inspect(tmp_path / "old")
        assert old.header > report.header and old.bound == report.bound


def test_a_directory_never_asks_for_more_than_sixteen_times_its_bytes() -> None:
    for content in ({"a": 1}, {"names": ["layer.weight"] * 5}, {"long": "x" * 100_000}, {"ü": ["\n"]}):
        packed = packed_directory(content)
        cursor = Cursor(packed)
        assert unpack_directory(cursor) == content and cursor.left == 0
        assert len(json.dumps(content)) < 16 * len(packed) + 10
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = bomb.compress(bytes(1 << 20)) + bomb.flush()
    for claimed, said in ((1 << 20, "claims"), (16 * len(small), "ends elsewhere"), (1 << 40, "larger than")):
        with pytest.raises(ValueError, match=said):
            unpack_directory(Cursor(number(claimed) + number(len(small)) + small))
    with pytest.raises(ValueError, match="twice"):
        unpack_directory(Cursor(b'\x0d\x0d{"a":1,"a":2}'))
