"""What a hold does at each optimizer step: whose steps it follows, what it counts, what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

from secateur._base.errors import MaskError
from secateur.holding import Hold, hold
from secateur.masks import Masks


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False))


def make_masks(model: nn.Module, density: float = 0.4) -> Masks:
    return Masks({name: torch.rand(p.shape) < density for name, p in model.named_parameters()})


def backward(model: nn.Module, scale: float = 1.0) -> Tensor:
    loss = mse_loss(model(torch.randn(4, 6)), torch.ones(4, 2)) * scale
    loss.backward()
    return loss


def step(model: nn.Module, *optimizers: Optimizer) -> None:
    backward(model)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


# Counting


def test_on_step_counts_from_one_after_the_zeros_are_written() -> None:
    model = make_model()
    seen: list[int] = []
    handles: list[Hold] = []

    def note(number: int) -> None:
        handles[0].check()
        seen.append(number)

    handles.append(hold(model, make_masks(model), on_step=note))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        step(model, optimizer)
    assert seen == [1, 2, 3]


def test_an_optimizer_without_held_parameters_does_not_count() -> None:
    model, other = make_model(), make_model()
    seen: list[int] = []
    hold(model, Masks({"0.weight": torch.rand(8, 6) < 0.4}), on_step=seen.append)
    step(other, torch.optim.SGD(other.parameters(), lr=0.1))
    step(model, torch.optim.SGD(model[2].parameters(), lr=0.1))
    assert seen == []
    step(model, torch.optim.SGD([{"params": model[2].parameters()}, {"params": model[0].parameters()}], lr=0.1))
    assert seen == [1]


def test_several_optimizers_share_one_count() -> None:
    model = make_model()
    seen: list[int] = []
    handle = hold(model, make_masks(model), on_step=seen.append)
    one = torch.optim.Muon(model[0].parameters(), lr=0.1)
    two = torch.optim.AdamW(model[2].parameters(), lr=0.1)
    for _ in range(3):
        step(model, one, two)
    assert seen == [1, 2, 3]
    handle.check()
    fresh = torch.optim.SGD(model.parameters(), lr=0.1)  # a second phase of training goes on counting
    for _ in range(3):
        step(model, fresh)
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_grad_scaler_skips_do_not_count(fused: bool) -> None:
    # A fused optimizer is called all the same, and skips inside.
    model = make_model()
    seen: list[int] = []
    handle = hold(model, make_masks(model), on_step=seen.append)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for scale in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        before = copy.deepcopy(model.state_dict())
        loss = mse_loss(model(torch.randn(4, 6)), torch.ones(4, 2)) * scale
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        moved = not torch.equal(model[0].weight, before["0.weight"])
        assert moved == (scale == 1.0)
        handle.check()
    assert seen == [1, 2]


def test_on_step_may_replace_the_masks() -> None:
    model = make_model()
    dense, sparse = make_masks(model, 2.0), make_masks(model, 0.3)
    handles: list[Hold] = []
    handles.append(hold(model, dense, on_step=lambda number: handles[0].replace(sparse) if number == 2 else None))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    densities = []
    for _ in range(3):
        step(model, optimizer)
        handles[0].check()
        densities.append(handles[0].masks.density)
    assert densities == [1.0, sparse.density, sparse.density]
    assert not model[0].weight[~sparse["0.weight"]].any()


def test_an_error_in_on_step_comes_out_of_the_loop() -> None:
    model = make_model()

    def fails(number: int) -> None:
        raise RuntimeError(f"at step {number}")

    hold(model, make_masks(model), on_step=fails)
    with pytest.raises(RuntimeError, match="at step 1"):
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))


# What is touched and what is not


def test_only_held_parameters_of_the_stepping_optimizer_are_written() -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    step(model, torch.optim.SGD(model[2].parameters(), lr=0.1))
    assert model[0].weight.all()
    assert not model[2].weight[~masks["2.weight"]].any()


def test_parameters_without_a_mask_train_freely() -> None:
    model, free = make_model(), make_model()
    free.load_state_dict(model.state_dict())
    hold(model, Masks({"0.weight": torch.ones(8, 6, dtype=torch.bool)}))
    state = torch.get_rng_state()
    step(model, torch.optim.Adam(model.parameters()))
    torch.set_rng_state(state)
    step(free, torch.optim.Adam(free.parameters()))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), free.parameters(), strict=True))


def test_gradients_are_masked_after_backward_and_dense_before() -> None:
    # A method that regrows weights looks at the dense gradient: a tensor hook sees it, whenever it was put on.
    model = make_model()
    masks = make_masks(model)
    dense: list[Tensor] = []
    model[0].weight.register_hook(lambda grad: dense.append(grad.clone()))
    hold(model, masks)
    model[0].weight.register_hook(lambda grad: dense.append(grad.clone()))
    backward(model)
    pruned = ~masks["0.weight"]
    assert all(grad[pruned].any() for grad in dense)
    assert len(dense) == 2
    assert not model[0].weight.grad[pruned].any()
    assert torch.equal(model[0].weight.grad[~pruned], dense[0][~pruned])
    loss = mse_loss(model(torch.randn(4, 6)), torch.ones(4, 2))
    (asked,) = torch.autograd.grad(loss, [model[0].weight])
    assert asked[pruned].any()


def test_gradients_accumulate_over_backwards() -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    plain = copy.deepcopy(dict(model.named_parameters()))
    inputs = torch.randn(3, 4, 6)
    for part in inputs:
        model(part).square().sum().backward()
        torch.func.functional_call(model, plain, (part,)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, plain[name].grad.masked_fill(~masks[name], 0))


def test_an_overflow_in_a_pruned_gradient_does_no_harm() -> None:
    model = nn.Linear(2, 1, bias=False)
    handle = hold(model, Masks({"weight": torch.tensor([[True, False]])}))
    optimizer = torch.optim.Adam(model.parameters())
    (model.weight * torch.tensor([[1.0, float("inf")]])).nan_to_num().sum().backward()
    assert model.weight.grad[0, 1] == 0.0
    model.weight.grad[0, 1] = float("nan")  # and one that comes in behind the hook
    optimizer.step()
    handle.check()
    assert model.weight.isfinite().all()


def test_sparse_gradients_of_an_embedding() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    handle = hold(model, Masks({"weight": torch.rand(5, 3) < 0.5}))
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.tensor([0, 1, 4])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.check()


def test_a_loop_without_a_torch_optimizer_calls_project() -> None:
    model = make_model()
    handle = hold(model, make_masks(model))
    backward(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.1)
    handle.project()
    handle.check()


# Replacing


def test_replace_prunes_at_once_and_regrows_from_zero() -> None:
    model = make_model()
    before, after = torch.rand(2, 8, 6) < 0.4
    handle = hold(model, Masks({"0.weight": before}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    weight = model[0].weight
    values = weight.detach().clone()
    handle.replace(Masks({"0.weight": after}))
    assert torch.equal(weight[before & after], values[before & after])
    assert not weight[~(before & after)].any()
    step(model, optimizer)
    assert weight[after].all()
    assert not weight[~after].any()


def test_replace_refuses_before_it_writes() -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    state = copy.deepcopy(model.state_dict())
    nothing = Masks({"0.weight": torch.zeros(8, 6, dtype=torch.bool)})
    with pytest.raises(MaskError, match="`masks` must name the parameters held already, but only one of the two"):
        handle.replace(nothing)
    wrong = Masks({**nothing, "2.weight": torch.ones(8, 2, dtype=torch.bool)})
    with pytest.raises(MaskError, match=r"the mask of '2\.weight' must have the parameter's shape"):
        handle.replace(wrong)
    assert handle.masks == masks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    handle.release()
    with pytest.raises(MaskError, match="this hold was released; call hold"):
        handle.replace(masks)
