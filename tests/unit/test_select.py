"""Selection: exact counts, ties by lower index, nothing unrankable; with and without the compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.selection import _radix, topk_mask

# Values that are hard to rank: signed zeros, subnormals, neighbours in the last bit, the ends of the range.
SPECIAL = [0.0, -0.0, 1.0, math.nextafter(1, 2), -1.0, 2.0**-149, -(2.0**-149), 1e-40, 3.4e38, -3.4e38, 0.5]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def reference(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """The definition, in numpy: a stable sort of everything in float64, the first `keep` of it."""
    flat = np.concatenate([np.zeros(0), *(tensor.double().numpy().reshape(-1) for tensor in scores.values())])
    bits = np.zeros(flat.size, dtype=bool)
    bits[np.argsort(-flat, kind="stable")[:keep]] = True
    masks, begin = {}, 0
    for name, tensor in scores.items():
        masks[name] = torch.from_numpy(bits[begin : begin + tensor.numel()]).reshape(tensor.shape)
        begin += tensor.numel()
    return masks


def size_of(scores: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in scores.values())


def kept_in(masks: Mapping[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == torch.bool
        assert torch.equal(found[name], wanted[name]), name


@st.composite
def score_mappings(draw: st.DrawFn) -> dict[str, Tensor]:
    """One to four tensors: any shape down to empty and scalar, mixed dtypes, many ties."""
    shapes = st.sampled_from([(), (0,), (1,), (3, 4), (2, 0), (5, 3, 2), (40,)])
    dtypes = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16])
    values = st.one_of(
        st.sampled_from(SPECIAL),
        st.integers(-3, 3).map(float),
        st.floats(-(2.0**100), 2.0**100, width=32),
    )
    scores = {}
    for index in range(draw(st.integers(1, 4))):
        shape, dtype = draw(shapes), draw(dtypes)
        entries = draw(st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape)))
        tensor = torch.tensor(entries, dtype=torch.float64).reshape(shape)
        limit = torch.finfo(dtype).max
        scores[f"layer{index}"] = tensor.clamp(-limit, limit).to(dtype)
    return scores


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=score_mappings(), fraction=st.sampled_from([0, 1e-9, 0.3, 0.5, 0.8, 1 - 1e-9, 1]))
def test_topk_is_the_stable_sort(backend: str, scores: dict[str, Tensor], fraction: float) -> None:
    size = size_of(scores)
    # 1e-9 and 1 - 1e-9 stand for one and all but one.
    keep = min(size, max(0, math.ceil(fraction * size) if fraction < 0.5 else math.floor(fraction * size)))
    masks = topk_mask(scores, keep)
    assert kept_in(masks) == keep
    assert_same(masks, reference(scores, keep))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=score_mappings())
def test_a_larger_count_only_adds(backend: str, scores: dict[str, Tensor]) -> None:
    previous = topk_mask(scores, 0)
    for keep in range(1, min(12, size_of(scores)) + 1):
        masks = topk_mask(scores, keep)
        assert all(bool((masks[name] | ~previous[name]).all()) for name in masks)
        assert kept_in(masks) == keep
        previous = masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_go_to_the_lower_index(backend: str, dtype: torch.dtype) -> None:
    scores = {"b": torch.zeros(4, dtype=dtype), "a": torch.tensor([[-0.0, 0.0], [1.0, 0.0]], dtype=dtype)}
    masks = topk_mask(scores, 6)
    assert masks["b"].tolist() == [True] * 4  # first in the mapping, whatever its name
    assert masks["a"].tolist() == [[True, False], [True, False]]


def test_equal_scores_over_many_slices_and_threads(backend: str, two_threads: None) -> None:
    # Three of the kernels' slices (2^18 scores) in the first tensor, and a part of one in the second.
    scores = {"first": torch.full((700_001,), 0.25), "second": torch.full((1_500_000,), 0.25)}
    scores["first"][::1000] = 0.5
    above = int((scores["first"] == 0.5).sum())
    for keep in (above - 5, above, above + 3, 300_000, 700_001, 800_000, 2_200_000):
        assert_same(topk_mask(scores, keep), reference(scores, keep))


def test_without_ties_the_order_of_tensors_does_not_matter(backend: str, generator: torch.Generator) -> None:
    values = torch.randperm(60, generator=generator).float().split([10, 20, 30])
    scores = dict(zip("abc", values, strict=True))
    turned = {name: scores[name] for name in "cab"}
    one, other = topk_mask(scores, 23), topk_mask(turned, 23)
    assert list(other) == ["c", "a", "b"]
    assert all(torch.equal(one[name], other[name]) for name in "abc")


@pytest.mark.parametrize("whole", [True, False])
def test_layout_does_not_matter(
    backend: str, whole: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(_radix, "PART", 7)
    base = torch.randn(6, 5, 4, 3, generator=generator)
    views = {
        "transposed": base.transpose(0, 3),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "strided": base[::2, :, 1:],
        "expanded": base[:1, :, :, :1].expand(4, 5, 4, 3),
        "negated": torch._neg_view(base),
    }
    scores = {**views, "half": views["transposed"].half()}
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in scores.items()}
    keep = size_of(scores) // 3
    masks = topk_mask(scores, keep)
    assert_same(masks, reference(plain, keep))
    assert all(mask.is_contiguous() for mask in masks.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parts_join_seamlessly(backend: str, small_parts: None, dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 2.0, 2.0, 0.0, -1.0, 2.0, 1.0, 1.0, 2.0, 1.0]).repeat(5).to(dtype)
    scores = {"a": values, "b": values.reshape(10, 5).t(), "scalar": torch.tensor(1.0, dtype=dtype)}
    for keep in range(0, 102, 3):
        assert_same(topk_mask(scores, keep), reference(scores, keep))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16]
)
def test_other_dtypes_are_ranked_by_their_exact_values(backend: str, dtype: torch.dtype) -> None:
    scores = {"a": torch.tensor([3, 0, 1, 1]).to(dtype), "b": torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)}
    for keep in range(8):
        assert_same(topk_mask(scores, keep), reference(scores, keep))


def test_float64_scores_that_float32_cannot_tell_apart(backend: str) -> None:
    close = torch.tensor([1.0, 1.0 + 2**-52, 1.0 + 2**-51, 1.0 - 2**-53], dtype=torch.float64)
    assert topk_mask({"a": torch.ones(2), "b": close}, 2)["b"].tolist() == [False, True, True, False]


def test_scores_stay_as_they_were_and_gradients_are_ignored(backend: str) -> None:
    scores = {"w": torch.tensor([0.3, -0.0, 0.2], requires_grad=True)}
    masks = topk_mask(scores, 1)
    assert masks["w"].tolist() == [True, False, False]
    assert not masks["w"].requires_grad
    assert scores["w"].requires_grad
    assert torch.signbit(scores["w"]).tolist() == [False, True, False]


def test_nothing_to_choose_from(backend: str) -> None:
    assert topk_mask({}, 0) == {}
    assert topk_mask({"empty": torch.zeros(0, 3)}, 0)["empty"].shape == (0, 3)


def test_works_in_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        assert topk_mask({"w": torch.tensor([1.0, 2.0])}, 1)["w"].tolist() == [False, True]
