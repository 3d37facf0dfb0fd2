"""What hold refuses, in which words, and that nothing was written by then."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from secateur._base.errors import LeakError, MaskError
from secateur.holding import held, hold
from secateur.masks import Masks


def masks_for(name: str = "0.weight", *shape: int) -> Masks:
    mask = torch.zeros(shape or (3, 4), dtype=torch.bool)
    mask.view(-1)[0] = True
    return Masks({name: mask})


def parametrized() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))


def pruned_by_torch() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5))


def spectral() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 3)))


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 3)))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(4, 3)))


class Packed(nn.Module):
    """Like torch's quantised Linear: the weight is a method, packed away."""

    def weight(self) -> torch.Tensor:
        return torch.zeros(3, 4)


def packed_in_bytes() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.uint8), requires_grad=False)
    return model


class FullyShardedDataParallel(nn.Module):
    """Like FSDP1, which cannot be made without a process group: what counts is its name."""

    def __init__(self) -> None:
        super().__init__()
        self._fsdp_wrapped_module = nn.Sequential(nn.Linear(4, 3))


WRAPPED: list[tuple[Callable[[], nn.Module], str, str]] = [
    (
        parametrized,
        "0.weight",
        "'0.weight' is computed by a parametrization; fold it first: "
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
    (parametrized, "0.parametrizations.weight.original0", "is computed by a parametrization; fold it first"),
    (
        pruned_by_torch,
        "0.weight",
        "'0.weight' is masked by torch.nn.utils.prune; fold it first: "
        "torch.nn.utils.prune.remove(module, 'weight') (Masks.from_zeros reads its mask back)",
    ),
    (pruned_by_torch, "0.weight_orig", "torch.nn.utils.prune.remove(module, 'weight')"),
    (spectral, "0.weight", "fold it first: torch.nn.utils.remove_spectral_norm(module, 'weight')"),
    (weight_normed, "0.weight", "fold it first: torch.nn.utils.remove_weight_norm(module, 'weight')"),
    (weight_normed, "0.weight_v", "fold it first: torch.nn.utils.remove_weight_norm(module, 'weight')"),
    (scripted, "0.weight", "the model is a TorchScript module, whose parameters hooks cannot follow; hold and"),
    (Packed, "weight", "'weight' is packed by a quantiser; prune and train first, quantise afterwards"),
    (packed_in_bytes, "0.weight", "is packed by a quantiser; prune and train first, quantise afterwards"),
    (
        FullyShardedDataParallel,
        "0.weight",
        "the model is wrapped in FSDP1 (FullyShardedDataParallel), which melts parameters together; "
        "use FSDP2 (torch.distributed.fsdp.fully_shard), which keeps them",
    ),
]


@pytest.mark.parametrize(("make", "name", "message"), WRAPPED, ids=lambda case: getattr(case, "__name__", None))
def test_wrappers_are_refused_with_the_way_out(make: Callable[[], nn.Module], name: str, message: str) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=re.escape(message)):
        hold(model, masks_for(name))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert held(model) == ()


def test_the_way_out_of_torch_prune_works() -> None:
    model = pruned_by_torch()
    kept = model[0].weight_mask.bool()
    prune.remove(model[0], "weight")
    masks = Masks.from_zeros(model)
    assert torch.equal(masks["0.weight"], kept)
    hold(model, masks).check()


def test_a_parametrization_elsewhere_does_not_matter() -> None:
    model = nn.Sequential(nn.Linear(4, 3), parametrizations.weight_norm(nn.Linear(3, 1)))
    hold(model, masks_for()).check()


def test_a_parametrization_put_on_later_is_named_at_check_and_step() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    handle = hold(model, masks_for())
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(MaskError, match=r"'0\.weight' is computed by a parametrization; fold it first"):
        handle.check()
    with pytest.raises(MaskError, match=r"'0\.weight' is computed by a parametrization; fold it first"):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    other = nn.Linear(2, 2)
    torch.optim.SGD(other.parameters(), lr=0.1).step()  # somebody else's training goes on


def test_masks_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=re.escape("the model has no parameter '2.weight'. Did you mean ")):
        hold(model, Masks({**masks_for(), **masks_for("2.weight")}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert held(model) == ()


def test_a_parameter_is_held_once() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    first = hold(model, masks_for())
    before = copy.deepcopy(model.state_dict())
    message = (
        "'0.weight' is held already, by Hold(Masks(1 tensor, 1 of 12 weights: 8.3 % kept · 91.7 % sparse · "
        "12×)); give that hold the new masks with its `replace(masks)`, or `release()` it first "
        "(secateur.held(model) finds it)"
    )
    with pytest.raises(MaskError, match=re.escape(message)):
        hold(model, Masks({"0.weight": torch.zeros(3, 4, dtype=torch.bool)}))
    with pytest.raises(MaskError, match="'weight' is held already"):
        hold(model[0], masks_for("weight"))
    assert held(model) == (first,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first.release()
    hold(model, masks_for())


def test_check_names_the_first_leak_its_index_and_its_value() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    handle = hold(model, Masks({**masks_for(), **masks_for("1.weight", 2, 3)}))
    with torch.no_grad():
        model[0].weight[0, 0] = 7.0  # kept
        model[1].weight[0, 2] = 0.125
        model[1].weight[1, 1] = float("nan")
    message = (
        "1.weight[0, 2] is pruned but holds 0.125 (the first of 2 such in '1.weight'); something wrote it "
        "after the last optimizer step, load_state_dict perhaps: `project()` writes the zeros again"
    )
    with pytest.raises(LeakError, match=re.escape(message)):
        handle.check()
    handle.project()
    handle.check()
    assert model[0].weight[0, 0] == 7.0


def test_a_hold_whose_model_is_gone_says_so() -> None:
    handle = hold(nn.Sequential(nn.Linear(4, 3)), masks_for())
    gc.collect()
    with pytest.raises(MaskError, match="the model of this hold is gone; keep the model, not the hold alone"):
        handle.check()
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(MaskError, match="the model of this hold is gone"):
            copied(handle)
    handle.release()
