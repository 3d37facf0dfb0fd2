"""Selection in rows, each a pool of its own, and by a threshold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur._base.errors import ScoreError, SecateurError
from secateur.selection import at_least, topk_mask, topk_rows


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 5),
    entries=st.integers(0, 40),
    fraction=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.bool]),
    seed=st.integers(0, 2**16),
)
def test_each_row_is_a_pool_of_its_own(rows: int, entries: int, fraction: float, dtype: torch.dtype, seed: int) -> None:
    values = torch.randint(-2, 3, (rows, entries), generator=torch.Generator().manual_seed(seed)) * -0.5
    scores = values.to(dtype)
    keep = int(fraction * entries)
    mask = topk_rows(scores, keep)
    assert mask.shape == scores.shape
    for row, bits in zip(scores, mask, strict=True):
        assert torch.equal(bits, topk_mask({"row": row}, keep)["row"])


def test_many_rows_are_taken_in_blocks(small_parts: None, generator: torch.Generator) -> None:
    scores = torch.randn(9, 3, generator=generator).t().contiguous().t()
    assert topk_rows(scores, 1).nonzero()[:, 1].tolist() == scores.argmax(1).tolist()


def test_rows_refuse_what_cannot_be_chosen() -> None:
    with pytest.raises(
        SecateurError, match=r"`keep` must be a whole number in \[0, 4\], the entries of a row, got 5\."
    ):
        topk_rows(torch.zeros(2, 4), 5)
    with pytest.raises(ScoreError, match=r"`scores\['conv.weight'\]` must be finite"):
        topk_rows(torch.full((2, 4), math.nan), 1, name="conv.weight")


def test_at_least_keeps_the_threshold_itself() -> None:
    assert at_least(torch.tensor([[0.1, 0.2], [0.3, -0.0]]), 0.2).tolist() == [[False, True], [True, False]]
    assert at_least(torch.tensor([-0.0, 0.0]), 0.0).all()
    assert at_least(torch.tensor(-3e38), -math.inf).item()


def test_at_least_refuses_nan() -> None:
    with pytest.raises(SecateurError, match="`value` must be a number, got NaN"):
        at_least(torch.zeros(2), math.nan)
    with pytest.raises(ScoreError, match=r"`scores\['gate'\]` must be finite"):
        at_least(torch.tensor([math.inf]), 0.5, name="gate")
