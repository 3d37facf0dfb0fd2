"""Mask files: what survives a round trip, and that a damaged or foreign file is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from secateur._base.errors import MaskError
from secateur.masks import Masks, join


@pytest.fixture
def masks() -> Masks:
    generator = torch.Generator().manual_seed(1)
    return Masks({name: torch.rand(3, 4, generator=generator) < 0.5 for name in ("0.weight", "1.weight")})


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"z": (3, 4, 3, 3), "a": (17,), "scalar": (), "none": (0, 5), "byte": (8,)}
    masks = Masks({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()})
    masks.save(tmp_path / "m.safetensors")
    loaded = Masks.load(tmp_path / "m.safetensors")
    assert loaded == masks
    assert list(loaded) == list(masks)
    assert {name: tuple(mask.shape) for name, mask in loaded.items()} == shapes


def test_a_file_holds_one_bit_per_weight(tmp_path: Path) -> None:
    Masks({"a": torch.ones(800, 1000, dtype=torch.bool)}).save(tmp_path / "m")
    assert 100_000 <= (tmp_path / "m").stat().st_size < 101_000
    assert load_file(tmp_path / "m")["a"].tolist() == [255] * 100_000


def test_save_replaces_and_leaves_nothing_else(tmp_path: Path, masks: Masks) -> None:
    path = tmp_path / "m"
    path.write_text("old")
    masks.save(str(path))
    assert os.listdir(tmp_path) == ["m"]
    assert Masks.load(str(path)) == masks


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    masks.save(path)

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        Masks({"other": torch.ones(1, dtype=torch.bool)}).save(path)
    assert os.listdir(tmp_path) == ["m"]
    assert Masks.load(path) == masks


def test_loading_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no mask file at "):
        Masks.load(tmp_path / "nothing")


def test_loading_what_is_no_mask_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, hello, hello")
    with pytest.raises(MaskError, match="text is not a mask file, or it is damaged"):
        Masks.load(tmp_path / "text")
    save_file({"a": np.zeros(3, np.uint8)}, tmp_path / "tensors")
    with pytest.raises(MaskError, match=re.escape("not a mask file; `Masks.save(path)` writes one")):
        Masks.load(tmp_path / "tensors")


def test_every_truncation_is_found(tmp_path: Path, masks: Masks) -> None:
    path = tmp_path / "m"
    masks.save(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(MaskError, match="damaged"):
            Masks.load(path)


def header(**changes: str) -> dict[str, str]:
    return {
        "format": "secateur.masks",
        "version": "1",
        "bits": "big",
        "shapes": '{"a": [2, 3]}',
        **changes,
    }


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({"a": [0]}, {"version": "2"}, "is a mask file of version '2', and this Secateur reads version '1'"),
        ({"a": [0]}, {"shapes": "[1"}, "is damaged: its header holds no table of shapes"),
        ({"a": [0]}, {"shapes": "[1]"}, "is damaged: its header holds no table of shapes"),
        ({"a": [0]}, {"shapes": '{"a": [2, -3]}'}, "is damaged: 'a' has the shape (2, -3)"),
        ({"a": [0]}, {"shapes": '{"a": [2, 3], "b": [1]}'}, "is damaged: 'b' is missing from its header or"),
        ({"a": [0, 0]}, {}, "is damaged: 'a' of shape (2, 3) needs 1 bytes, got uint8 of shape (2,)"),
        ({"a": [255]}, {}, "is damaged: 'a' has bits set behind its last weight"),
    ],
)
def test_damage_is_named(tmp_path: Path, rows: dict[str, list[int]], changes: dict[str, str], message: str) -> None:
    tensors = {name: np.array(row, np.uint8) for name, row in rows.items()}
    save_file(tensors, tmp_path / "m", metadata=header(**changes))
    with pytest.raises(MaskError, match=re.escape(message)):
        Masks.load(tmp_path / "m")


def test_joined_files_are_the_bytes_of_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"z": (3, 4, 3, 3), "a": (17,), "scalar": (), "none": (0, 5), "byte": (8,)}
    whole = {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()}
    parts = [tmp_path / "1", tmp_path / "2"]
    for part, names in zip(parts, (("z", "a", "scalar"), ("none", "byte")), strict=True):
        Masks({name: whole[name] for name in names}).save(part)
    join(parts, tmp_path / "joined")
    Masks(whole).save(tmp_path / "whole")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(MaskError, match=r"'z' is in two of the files to join"):
        join([parts[0], parts[0]], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
