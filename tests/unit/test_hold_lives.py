"""How long a hold lives: with the model, with its parts and with its copies, and not a moment longer."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur._base.errors import LeakError
from secateur.holding import Hold, _steps, held, hold
from secateur.masks import Masks


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def make_masks(model: nn.Module, *names: str) -> Masks:
    names = names or ("0.weight", "3.weight")
    return Masks({name: torch.rand(model.get_parameter(name).shape) < 0.4 for name in names})


def train(model: nn.Module, steps: int = 3, optimizer: torch.optim.Optimizer | None = None) -> None:
    # Momentum and decay, so that an unheld weight surely moves off zero.
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    first = next(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(4, 6, dtype=first.dtype)
        output = model(inputs)
        mse_loss(output, torch.ones_like(output)).backward()
        optimizer.step()


def global_hooks() -> set[tuple[str, int]]:
    """All of them, by number: those that other tests left in circles may go at any time."""
    before, after = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    return {*(("pre", key) for key in before), *(("post", key) for key in after)}


# Leaving the model as it was


def test_keys_modules_and_parameters_stay_the_same() -> None:
    model = make_model()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    handle = hold(model, make_masks(model))
    assert list(model.state_dict()) == keys
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    attributes = {key for module in model.modules() for key in vars(module)}
    handle.release()
    plain = {key for module in make_model().modules() for key in vars(module)}
    assert attributes - plain == {"_secateur_holds"}
    assert {key for module in model.modules() for key in vars(module)} == plain


def test_release_lets_weights_grow_again_and_takes_every_hook_along() -> None:
    gc.collect()  # what other tests left in circles holds hooks too, until it is found
    before = global_hooks()
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    assert {kind for kind, _ in global_hooks()} == {"post", "pre"}
    handle.release()
    handle.release()
    assert global_hooks() <= before
    assert not handle.active
    assert held(model) == ()
    assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    train(model)
    assert model[0].weight[~masks["0.weight"]].any()
    again = hold(model, masks)
    train(model)
    again.check()


def test_the_last_of_the_others_may_go_while_a_hold_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    other = make_model()
    hold(other, make_masks(other))
    others = [other]
    del other
    numbers = _steps._numbers

    class Collected:
        """The collector comes round just when the next hold gets its number."""

        def __next__(self) -> int:
            others.clear()
            gc.collect()
            return next(numbers)

    monkeypatch.setattr(_steps, "_numbers", Collected())
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    assert {kind for kind, _ in global_hooks()} == {"post", "pre"}
    with torch.no_grad():
        model[0].weight.fill_(1.0)  # what a gradient mask alone leaves as it is
    train(model)
    assert handle.active and not model[0].weight[~masks["0.weight"]].any()


def test_as_a_context_manager() -> None:
    model = make_model()
    with hold(model, make_masks(model)) as handle:
        train(model)
        handle.check()
    assert not handle.active


def test_the_hold_lives_as_long_as_the_model_and_no_longer() -> None:
    gc.collect()
    before = global_hooks()
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)  # nobody keeps it
    gc.collect()
    train(model)
    assert not model[0].weight[~masks["0.weight"]].any()
    gone = weakref.ref(model)
    weight = weakref.ref(model[0].weight)
    gc.disable()  # a model on a GPU must be freed at once, not when the collector comes round
    try:
        del model
        assert gone() is None
        assert weight() is None
    finally:
        gc.enable()
    assert global_hooks() <= before


def test_taking_the_model_apart_keeps_its_parts_held() -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    parts = nn.Sequential(*list(model.children())[:3], nn.Linear(8, 1))
    del model
    gc.collect()
    train(parts)
    assert not parts[0].weight[~masks["0.weight"]].any()
    assert len(held(parts)) == 1


def test_holding_parts_of_a_model_each_on_its_own() -> None:
    model = make_model()
    one, two = hold(model, make_masks(model, "0.weight")), hold(model[3], Masks({"weight": torch.eye(2, 8) > 0}))
    assert set(held(model)) == {one, two}
    train(model)
    one.check()
    two.check()
    one.release()
    train(model)
    two.check()
    with pytest.raises(LeakError):
        one.check()


# Copies


def by_deepcopy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def by_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def inside_another(model: nn.Module) -> nn.Module:
    return copy.deepcopy(nn.Sequential(model))[0]


COPIES = [by_deepcopy, by_pickle, by_torch_save, inside_another]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_of_a_held_model_is_a_held_model_of_its_own(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = make_model()
    masks = make_masks(model)
    original = hold(model, masks)
    train(model)
    twin = duplicate(model)
    gc.collect()
    (handle,) = held(twin)
    assert handle is not original
    assert handle.masks == masks
    assert twin[0].weight is not model[0].weight
    twin_loss = mse_loss(twin(torch.randn(4, 6)), torch.ones(4, 2))
    twin_loss.backward()
    assert not twin[0].weight.grad[~masks["0.weight"]].any()
    original.release()
    train(twin)
    handle.check()
    handle.release()
    train(twin)
    assert twin[0].weight[~masks["0.weight"]].any()
    assert not model[0].weight[~masks["0.weight"]].any()


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_does_not_act_on_steps(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    seen: list[int] = []
    model = make_model()
    hold(model, make_masks(model), on_step=seen.append)
    train(duplicate(model))
    assert seen == []
    train(model)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_taken_apart_stays_held_as_well(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    parts = nn.Sequential(*duplicate(model).children())
    gc.collect()
    train(parts)
    assert not parts[0].weight[~masks["0.weight"]].any()


def test_pickling_the_hold_alone_brings_its_model() -> None:
    model = make_model()
    handle = hold(model, make_masks(model))
    state = pickle.loads(pickle.dumps({"hold": handle, "model": model}))
    assert held(state["model"]) == (state["hold"],)
    assert isinstance(state["hold"], Hold)


def test_an_averaged_model_keeps_the_zeros() -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        train(model, 1, optimizer)
        average.update_parameters(model)
    assert not torch.equal(average.module[0].weight, model[0].weight)
    masks.check(average)
    held(average)[0].check()
    assert not average.module[0].weight[~masks["0.weight"]].any()
