"""Selection's counts, and the sentences for what cannot be counted or ranked."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur._base.errors import ScoreError, SecateurError
from secateur.selection import check_density, kept_count, topk_mask

# --- how many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "total", "kept"),
    [
        (0.05, 15_245_130, 762_257),  # VGG-D: half a weight, rounded up; Python's round() gives one less
        (0.1, 5_070_218, 507_022),
        (0.02, 431_080, 8_622),
        (0.02, 266_610, 5_332),
        (1.0, 17, 17),
        (1, 17, 17),
        (0.5, 1, 1),
        (0.4, 1, 0),
        (0.3, 0, 0),
    ],
)
def test_kept_count_golden(density: float, total: int, kept: int) -> None:
    assert kept_count(density, total) == kept


@given(density=st.floats(1e-9, 1), total=st.integers(0, 2**40))
def test_kept_count_is_the_nearest_whole_number(density: float, total: int) -> None:
    kept = kept_count(density, total)
    assert 0 <= kept <= total
    assert abs(kept - density * total) <= 0.5 + 1e-3


def test_a_density_out_of_range_suggests_what_was_meant() -> None:
    meant = "`density` must be in (0, 1], got 95. Did you mean density=0.05 (keep 5 %)?"
    with pytest.raises(SecateurError) as error:
        kept_count(95, 100)
    assert str(error.value) == meant


@pytest.mark.parametrize("density", [0, 0.0, -0.1, math.nan, 100, 1000.5, math.inf])
def test_a_density_that_keeps_nothing_or_more_than_all_is_refused(density: float) -> None:
    with pytest.raises(SecateurError) as error:
        check_density(density, name="initial")
    assert str(error.value) == (
        f"`initial` must be in (0, 1], got {density!r}. It is the fraction kept: initial=0.05 keeps 5 %."
    )


def test_a_negative_total_is_refused() -> None:
    with pytest.raises(SecateurError, match="`total` must be at least 0, got -1"):
        kept_count(0.5, -1)


# --- what cannot be ranked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("keep", [0, 1, 5])
def test_nan_and_infinities_are_refused(backend: str, dtype: torch.dtype, value: float, keep: int) -> None:
    scores = {"fine": torch.zeros(2), "fc2.weight": torch.tensor([[0.5, value, 1.0]], dtype=dtype)}
    with pytest.raises(ScoreError, match=r"`scores\['fc2.weight'\]` must be finite to be ranked"):
        topk_mask(scores, keep)


@pytest.mark.parametrize("value", [torch.finfo(torch.float32).max, torch.finfo(torch.float32).min, 2.0**-149])
def test_the_ends_of_the_range_are_finite(backend: str, value: float) -> None:
    assert topk_mask({"w": torch.tensor([value, value])}, 1)["w"].tolist() == [True, False]


def test_the_sentence_for_nan_counts_and_shows_ways_out(backend: str) -> None:
    scores = {
        "fine": torch.zeros(2),
        "a": torch.tensor([math.nan, math.inf, 0.0, math.nan]),
        "b": torch.tensor(math.inf),
    }
    with pytest.raises(ScoreError) as error:
        topk_mask(scores, 1)
    assert str(error.value) == (
        "`scores['a']` must be finite to be ranked, got 2 NaN and 1 infinite of 4 values (1 more tensors have some). "
        "Check that the loss is finite and score in float32 or float64; `torch.nan_to_num` gives such entries a value "
        "on purpose."
    )


@pytest.mark.parametrize("keep", [-1, 4])
def test_a_count_out_of_range_is_refused(keep: int) -> None:
    with pytest.raises(SecateurError) as error:
        topk_mask({"w": torch.zeros(3)}, keep)
    assert str(error.value) == (
        f"`keep` must be a whole number in [0, 3], from none to all scores, got {keep}. "
        "`kept_count(density, total)` turns a density into a count."
    )


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(2, dtype=torch.complex64), "must be real to be ranked, got torch.complex64. Take its `abs()`."),
        (torch.zeros(2).to_sparse(), "must be dense to be ranked, got torch.sparse_coo: `to_dense()`."),
        (torch.zeros(2, device="meta"), "must hold values, got the meta device. Compute it on a real one."),
        (torch.tensor([2**53 + 1]), "must fit float64 exactly to be ranked, got torch.int64 beyond 2⁵³."),
    ],
)
def test_tensors_that_cannot_be_ranked(tensor: Tensor, sentence: str) -> None:
    with pytest.raises(ScoreError) as error:
        topk_mask({"w": tensor}, 1)
    assert str(error.value).startswith(f"`scores['w']` {sentence}")
