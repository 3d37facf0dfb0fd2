"""What takes the place of a held parameter, or comes to life later, is held from its first gradient on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from secateur import MaskError, Masks, held, hold


def make_model() -> Any:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def make_masks(model: nn.Module) -> Masks:
    return Masks({n: torch.rand(p.shape) < 0.4 for n, p in model.named_parameters() if p.dim() > 1})


def freeze(model: Any) -> None:
    model[0].weight.requires_grad_(False)


def nothing(model: Any) -> None:
    pass


def thaw(model: Any) -> None:
    model[0].weight.requires_grad_(True)


def replace(model: Any) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def register(model: Any) -> None:
    for name, parameter in list(model[0].named_parameters()):
        delattr(model[0], name)
        model[0].register_parameter(name, nn.Parameter(parameter.detach().clone()))


def assign(model: Any) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def assign_frozen_then_thaw(model: Any) -> None:
    freeze(model)
    assign(model)
    thaw(model)


def swap_layer(model: Any) -> None:
    layer = copy.deepcopy(nn.Linear(6, 8))
    layer.load_state_dict(model[0].state_dict())
    with pytest.warns(UserWarning, match=r"'0\.weight' belongs to another layer than when it was held"):
        model[0] = layer


def wrap_layer(model: Any) -> None:
    model[0] = nn.Sequential(model[0])


def set_in_dict_and_check(model: Any) -> None:
    model[0]._parameters["weight"] = nn.Parameter(model[0].weight.detach().clone())  # nobody can see this
    held(model)[0].check()


EVENTS: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "none": (nothing, nothing),
    "thaw": (freeze, thaw),
    "replace": (nothing, replace),
    "register": (nothing, register),
    "assign": (nothing, assign),
    "assign, thaw": (nothing, assign_frozen_then_thaw),
    "another layer": (nothing, swap_layer),
    "a wrapped layer": (nothing, wrap_layer),
    "a look by check": (nothing, set_in_dict_and_check),
}


def clipped_step(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.05).item()
    optimizer.step()
    return norm


@pytest.mark.parametrize("event", EVENTS)
def test_clipping_sees_the_norm_of_masked_training_from_the_first_step(event: str) -> None:
    before, after = EVENTS[event]
    model = make_model()
    masks = make_masks(model)
    masks.apply_(model)
    plain = copy.deepcopy(model)
    inputs, targets = torch.randn(16, 6), torch.randint(0, 3, (16,))
    before(model)
    handle = hold(model, masks)
    after(model)

    def masked() -> Tensor:
        weights = {name: p * masks[name] if name in masks else p for name, p in plain.named_parameters()}
        return cross_entropy(functional_call(plain, weights, inputs), targets)

    assert clipped_step(model, lambda: cross_entropy(model(inputs), targets)) == clipped_step(plain, masked)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two)
    if event != "a wrapped layer":  # its name is another one
        handle.check()


def test_frozen_weights_stay_frozen_under_a_hold() -> None:
    model = make_model()
    freeze(model)
    hold(model, make_masks(model))
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]


def test_a_head_of_another_size_is_refused_at_the_step_and_by_check() -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    old = model[2]
    model[2] = nn.Linear(8, 5)  # and somebody keeps the old one, so that its weight lives on
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    message = (
        r"the mask of '2\.weight' must have the parameter's shape \(5, 8\), got \(3, 8\) It is held, and its layer has "
        r"been replaced since: `release\(\)` this hold .* hold\(model, masks\) with masks of the model as it is now"
    )
    for call in (optimizer.step, optimizer.step, handle.check, handle.project):
        with pytest.raises(MaskError, match=message):
            call()
    fitting = Masks({"0.weight": masks["0.weight"], "2.weight": torch.ones(5, 8, dtype=torch.bool)})
    with pytest.raises(
        MaskError, match=r"must have the shape \(3, 8\) of the one it replaces, got \(5, 8\); .* release"
    ):
        handle.replace(fitting)
    handle.release()
    hold(model, fitting).check()  # the way out
    optimizer.step()
    assert old.weight.shape == (3, 8)


def test_a_new_head_of_the_same_size_is_held_although_the_old_one_lives() -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    old = model[2]
    with pytest.warns(
        UserWarning, match=r"'2\.weight' belongs to another layer .* or now by `project\(\)`\. To train it"
    ):
        model[2] = nn.Linear(8, 3)
    handle.project()
    clipped_step(model, lambda: model(torch.ones(2, 6)).square().sum())
    handle.check()
    assert model[2].weight[masks["2.weight"]].any()
    assert old is not model[2]


def test_layers_put_elsewhere_change_nothing_for_the_hold() -> None:
    """A container that shares a held layer gets another one: the held model still has the first."""
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    other = nn.Sequential(model[0], nn.ReLU())
    other[0] = nn.Linear(6, 8)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    (model(torch.ones(2, 6)).sum() + other(torch.ones(2, 6)).sum()).backward()
    assert other[0].weight.grad[~masks["0.weight"]].any()
    optimizer.step()
    handle.check()
