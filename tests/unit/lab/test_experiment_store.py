"""Files are whole or absent, and say what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from secateur.lab.repeat import ArtefactError, locked, read_json, read_tensors, write_json, write_tensors


def test_round_trips(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1.5, dtype=torch.float64)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"step": 3, "note": "ü"})
    again, about = read_tensors(tmp_path / "t.safetensors")
    assert about == {"step": 3, "note": "ü"}
    assert all(
        torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    write_json(tmp_path / "j.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "j.json") == {"x": [1, 2.5, None]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.json", "t.safetensors"]


def test_equal_tensors_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tensors(tmp_path / name, {"b": torch.ones(3), "a": torch.zeros(2)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.json"
    write_json(path, {"old": 1})

    def fail(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "j.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"j.json is damaged \(.+\)\. Delete it and run again"):
        read_json(path)


def test_tensors_that_are_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ArtefactError, match=r"t.safetensors is damaged"):
        read_tensors(path)


def test_lock_is_freed_and_left_overs_are_swept(tmp_path: Path) -> None:
    left_over = tmp_path / ".x.json.123.tmp"
    left_over.touch()
    with locked(tmp_path):
        assert not left_over.exists()
    with locked(tmp_path):
        pass
