"""Calibration for language models: a file of text or of token ids, as windows of one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import SecateurError


def token_ids(file: Path | str, tokenizer: Any = None) -> Tensor:
    """The token ids in a file, in one row: a `.npy` of whole numbers as it is, anything else as text for `tokenizer`.

    Raises:
        SecateurError: no such file, no tokens in it, or text without a tokenizer.
    """
    path = Path(file)
    if not path.is_file():
        raise SecateurError(f"there is no calibration file at {path}.")
    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
        if found.dtype.kind not in "iu":
            raise SecateurError(f"{path} must hold token ids, which are whole numbers, got {found.dtype}.")
        ids = torch.from_numpy(found.reshape(-1).astype(np.int64))
    elif tokenizer is None:
        raise SecateurError(
            f"{path} is text, and the model's folder has no tokenizer: put one there, or give token ids (a .npy file)."
        )
    else:
        text = path.read_text(encoding="utf-8", errors="strict")
        ids = torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)
    if not len(ids):
        raise SecateurError(f"{path} holds no tokens: there is nothing to calibrate on.")
    return ids


def windows(ids: Tensor, *, length: int, count: int, vocabulary: int) -> Tensor:
    """Up to `count` windows of `length` tokens that do not overlap, spread evenly over the text: (windows, length).

    Raises:
        SecateurError: fewer tokens than one window, or ids that are not of the model's vocabulary.

    >>> windows(torch.arange(10), length=3, count=2, vocabulary=10).tolist()
    [[0, 1, 2], [6, 7, 8]]
    """
    if len(ids) < length:
        raise SecateurError(f"the calibration file holds {len(ids)} tokens, fewer than one window of {length}.")
    wrong = (ids < 0) | (ids >= vocabulary)
    if bool(wrong.any()):
        raise SecateurError(
            f"token ids must be in [0, {vocabulary}), the model's vocabulary, got {int(ids[wrong][0])}: are they of "
            "another tokenizer?"
        )
    whole = ids[: len(ids) // length * length].reshape(-1, length)
    take = torch.linspace(0, len(whole) - 1, min(count, len(whole))).round().long()
    return whole[take]


def batches_of(rows: Tensor, *, size: int = 4) -> list[dict[str, Tensor]]:
    """Windows as batches for `prune`."""
    return [{"input_ids": part} for part in rows.split(size)]
