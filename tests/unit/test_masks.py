"""Masks: laws of the value, what it refuses and in which words, and what survives a file."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur._base.errors import MaskError
from secateur.masks import LayerDensity, Masks, density_text


def bits(*rows: str) -> Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


@pytest.fixture
def masks() -> Masks:
    return Masks({"0.weight": bits("1000", "0110", "0000"), "1.weight": bits("111")})


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


def says(message: str) -> str:
    """Match this sentence as it stands."""
    return re.escape(message)


# The value


def test_counts_by_hand(masks: Masks) -> None:
    assert (masks.kept, masks.numel, len(masks)) == (6, 15, 2)
    assert masks.density == 6 / 15
    assert masks.layers() == [
        LayerDensity("0.weight", (3, 4), 3, 12),
        LayerDensity("1.weight", (1, 3), 3, 3),
    ]
    assert [layer.density for layer in masks.layers()] == [0.25, 1.0]
    assert list(masks) == ["0.weight", "1.weight"]


def test_empty_names_layers_that_lost_everything() -> None:
    masks = Masks({"a": bits("01"), "b": bits("00"), "none": torch.zeros(0, 3, dtype=torch.bool)})
    assert masks.empty == ("b",)
    assert masks.layers()[2].density == 1.0


def test_density_without_any_weight_is_one() -> None:
    assert Masks({"a": torch.zeros(0, dtype=torch.bool)}).density == 1.0


def test_repr_counts_and_says_kept_sparse_and_ratio(masks: Masks) -> None:
    assert repr(masks) == "Masks(2 tensors, 6 of 15 weights: 40.0 % kept · 60.0 % sparse · 2.5×)"


@pytest.mark.parametrize(
    ("density", "text"),
    [
        (1.0, "100.0 % kept · 0.0 % sparse · 1×"),
        (0.5, "50.0 % kept · 50.0 % sparse · 2×"),
        (0.05, "5.0 % kept · 95.0 % sparse · 20×"),
        (0.01, "1.0 % kept · 99.0 % sparse · 100×"),
        (0.001, "0.1 % kept · 99.9 % sparse · 1,000×"),
        (0.0004, "0.04 % kept · 99.96 % sparse · 2,500×"),
        (0.0, "0.0 % kept · 100.0 % sparse · ∞×"),
    ],
)
def test_density_text(density: float, text: str) -> None:
    assert density_text(density) == text


def test_the_callers_tensor_stays_his_own() -> None:
    mine = bits("10")
    masks = Masks({"a": mine})
    mine.fill_(True)
    assert masks["a"].tolist() == [[True, False]]


def test_adopted_tensors_are_not_cloned() -> None:
    mine = bits("10")
    assert Masks({"a": mine}, copy=False)["a"].data_ptr() == mine.data_ptr()


def test_writing_into_a_mask_is_found_out() -> None:
    masks = Masks({"a": bits("10")})
    masks["a"].fill_(True)
    with pytest.raises(MaskError, match="the mask of 'a' was changed in place, and masks are immutable"):
        masks["a"]


def test_masks_made_in_inference_mode_work_outside() -> None:
    with torch.inference_mode():
        masks = Masks({"a": bits("10")}, copy=False)
        assert masks["a"].tolist() == [[True, False]]
    assert masks["a"].tolist() == [[True, False]]


def test_a_mapping_cannot_be_assigned_to(masks: Masks) -> None:
    with pytest.raises(TypeError):
        masks["0.weight"] = bits("1")  # type: ignore[index]
    with pytest.raises(AttributeError):
        masks.density = 1.0  # type: ignore[misc]


def test_equality_is_names_shapes_and_bits(masks: Masks) -> None:
    same = Masks({"1.weight": masks["1.weight"], "0.weight": masks["0.weight"]})
    assert masks == same
    assert hash(masks) == hash(same)
    assert masks != Masks({"0.weight": masks["0.weight"]})
    assert Masks({"a": bits("11")}) != Masks({"a": bits("1", "1")})
    assert Masks({"a": bits("11")}) != Masks({"a": bits("10")})
    assert hash(Masks({"a": bits("11")})) != hash(Masks({"a": bits("1", "1")}))
    assert masks != "masks"


def test_pickle_and_copies_are_equal(masks: Masks) -> None:
    assert pickle.loads(pickle.dumps(masks)) == masks
    assert copy.deepcopy(masks) is masks
    assert copy.copy(masks) is masks


def test_to_the_same_device_is_the_same_object(masks: Masks) -> None:
    assert masks.to("cpu") is masks
    assert masks.to("meta")["0.weight"].device.type == "meta"


# Algebra


def test_boolean_algebra_against_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 7, 5)) < 0.4
    one, two = Masks({"w": torch.from_numpy(a)}), Masks({"w": torch.from_numpy(b)})
    assert np.array_equal((one & two)["w"].numpy(), a & b)
    assert np.array_equal((one | two)["w"].numpy(), a | b)
    assert np.array_equal((~one)["w"].numpy(), ~a)
    assert ~(one & two) == ~one | ~two
    assert one.overlap(two) == (a & b).sum() / (a | b).sum()
    assert one.overlap(two) == two.overlap(one)
    assert one.overlap(one) == 1.0
    assert one.overlap(~one) == 0.0


def test_overlap_of_two_empty_masks_is_one() -> None:
    nothing = Masks({"w": bits("00")})
    assert nothing.overlap(nothing) == 1.0


def test_algebra_refuses_different_names_and_shapes() -> None:
    with pytest.raises(MaskError, match="both masks must speak of the same parameters, but only one has 'b'"):
        Masks({"a": bits("1")}) & Masks({"a": bits("1"), "b": bits("1")})
    with pytest.raises(MaskError, match=says("the masks of 'a' have the shapes (1, 1) and (1, 2)")):
        Masks({"a": bits("1")}) | Masks({"a": bits("11")})


# What is refused at construction


def test_no_masks_at_all_are_refused() -> None:
    with pytest.raises(MaskError, match="`tensors` must hold at least one mask, got none"):
        Masks({})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_non_bool_is_refused(dtype: torch.dtype) -> None:
    message = f"the mask of 'a' must be boolean, got {dtype}; write `mask != 0` or `mask > threshold`"
    with pytest.raises(MaskError, match=says(message)):
        Masks({"a": torch.ones(2, dtype=dtype)})


# On a model


def test_apply_writes_zeros_and_nothing_else(masks: Masks, model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    masks.apply_(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        mask = masks[name] if name in masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[mask], before[name][mask])
        assert not value[~mask].any()


def test_apply_zeroes_even_nan_and_inf(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight[0, 1], model[0].weight[0, 2] = float("nan"), float("inf")
    Masks({"0.weight": bits("1000", "1111", "1111")}).apply_(model)
    assert model[0].weight[0, 1:].tolist() == [0.0, 0.0, 0.0]


def test_apply_changes_nothing_if_anything_does_not_fit(masks: Masks, model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    wrong = Masks({**masks, "1.bias": bits("1")})
    with pytest.raises(MaskError):
        wrong.apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_name_suggests_the_nearest(model: nn.Module) -> None:
    message = "the model has no parameter '0.wieght'. Did you mean '0.weight'?"
    with pytest.raises(MaskError, match=says(message)):
        Masks({"0.wieght": bits("1")}).check(model)


def test_wrong_shape_names_both_shapes(model: nn.Module) -> None:
    message = "the mask of '0.weight' must have the parameter's shape (3, 4), got (4, 3)"
    with pytest.raises(MaskError, match=says(message)):
        Masks({"0.weight": torch.ones(4, 3, dtype=torch.bool)}).check(model)


def test_lazy_module_is_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(MaskError, match=says("has no shape yet (a lazy module); run the model once before")):
        Masks({"0.weight": bits("111")}).check(model)


def test_tied_parameters_answer_to_any_of_their_names() -> None:
    mask = torch.eye(3, dtype=torch.bool)
    for name in ("a.weight", "b.weight"):
        model = Tied()
        Masks({name: mask}).apply_(model)
        assert not model.a.weight[~mask].any()
        assert model.b.weight is model.a.weight
    Masks({"a.weight": mask, "b.weight": mask}).check(Tied())


def test_two_different_masks_for_a_tied_parameter_are_refused() -> None:
    mask = torch.eye(3, dtype=torch.bool)
    message = "'a.weight' and 'b.weight' are one tied parameter, but their masks differ; keep one of them"
    with pytest.raises(MaskError, match=says(message)):
        Masks({"a.weight": mask, "b.weight": ~mask}).check(Tied())


def test_names_are_looked_through_wrappers(masks: Masks, model: nn.Module) -> None:
    wrapped = nn.DataParallel(model)
    assert masks.parameters(wrapped)["0.weight"] is model[0].weight
    of_wrapped = Masks({f"module.{name}": mask for name, mask in masks.items()})
    assert of_wrapped.parameters(model)["module.1.weight"] is model[1].weight
    compiled = nn.ModuleDict({"_orig_mod": model})
    assert masks.parameters(compiled)["0.weight"] is model[0].weight


def test_an_ambiguous_wrapper_name_is_refused() -> None:
    model = nn.ModuleDict({"module": nn.Linear(3, 3), "_orig_mod": nn.Linear(3, 3)})
    with pytest.raises(MaskError, match="the model has no parameter 'weight'"):
        Masks({"weight": torch.eye(3, dtype=torch.bool)}).check(model)


def test_from_zeros_reads_back_what_apply_wrote(masks: Masks, model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    masks.apply_(model)
    assert Masks.from_zeros(model) == masks
    assert list(Masks.from_zeros(model, only=["1.*"])) == ["1.weight"]
    assert list(Masks.from_zeros(model, only=lambda name, _: name == "0.weight")) == ["0.weight"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_masks_behave_like_cpu_masks(tmp_path: Path, masks: Masks, model: nn.Module) -> None:
    there = masks.to("cuda")
    assert there == masks
    assert hash(there) == hash(masks)
    assert there.overlap(masks) == 1.0
    there.save(tmp_path / "m")
    assert Masks.load(tmp_path / "m") == masks
    masks.apply_(model.to("cuda"))
    assert not model[0].weight[~there["0.weight"]].any()


def test_printed_masks_are_a_table_and_their_repr_is_short() -> None:
    masks = Masks({"a.weight": torch.eye(4) > 0, "b\x1b": torch.zeros(2, 10, 3) > 0})
    lines = str(masks).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["a.weight", "4", "×", "4", "4", "25.0", "%"],
        ["b\\x1b", "2", "×", "10", "×", "3", "0", "0.0", "%"],
    ]
    assert lines[2:] == [repr(masks)] and "\n" not in repr(masks)
