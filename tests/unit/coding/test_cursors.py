"""Reading through a file is reading through its bytes, and no more of it is in memory than was asked for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.coding import Cursor, FileCursor, codebook_of, density, linear, number
from secateur.coding import _shared as shared


def told(cursor: Cursor, seed: int) -> list[object]:
    """What a cursor answers to some calls, errors among them."""
    chance, found = random.Random(seed), []
    for _ in range(40):
        call = chance.choice(["byte", "take", "number", "left"])
        try:
            if call == "left":
                found.append(cursor.left)
            elif call == "byte":
                found.append(cursor.byte())
            else:
                found.append(getattr(cursor, call)(chance.randrange(1, 30) if call == "take" else 1 << 40))
        except ValueError as problem:
            found.append(str(problem))
    return found


def test_a_file_answers_as_its_bytes_do(tmp_path: Path) -> None:
    chance = random.Random(0)
    for seed in range(100):
        content = b"".join(number(chance.randrange(1 << chance.randrange(1, 40))) for _ in range(40))
        (tmp_path / "a").write_bytes(b"before" + content + b"behind")
        with open(tmp_path / "a", "rb") as file:
            assert told(FileCursor(file, 6, len(content)), seed) == told(Cursor(content), seed)
            assert told(FileCursor(file, 6, 9), seed) == told(Cursor(content[:9]), seed)


def test_a_file_that_ends_before_it_says_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with open(tmp_path / "a", "rb") as file:
        cursor = FileCursor(file, 1, 10)
        assert cursor.take(2) == b"bc"
        with pytest.raises(ValueError, match="too early"):
            cursor.take(3)


@pytest.mark.parametrize("init", [linear, density])
def test_how_many_values_are_looked_up_at_a_time_changes_no_bit(
    init: shared.Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30_000, generator=generator) * (torch.rand(30_000, generator=generator) < 0.7)
    found = []
    for chunk in (512, 4096, 1 << 20):
        monkeypatch.setattr(shared, "_CHUNK", chunk)
        found.append((codebook_of(values, 4, init), shared.nearest(found[0][0] if found else values.unique(), values)))
    for book, indices in found[1:]:
        assert np.array_equal(book.numpy(), found[0][0].numpy()) and torch.equal(indices, found[1][1])
