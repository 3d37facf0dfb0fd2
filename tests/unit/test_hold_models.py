"""What a held model goes through in practice: checkpoints, conversions, tied weights, compilation."""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from secateur._base.errors import LeakError
from secateur.holding import held, hold
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
        inputs = torch.randn(4, 6, dtype=first.dtype, device=first.device)
        output = model(inputs)
        mse_loss(output, torch.ones_like(output)).backward()
        optimizer.step()


def dense_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(value) for name, value in model.state_dict().items()}


# Checkpoints and conversions


def test_state_dict_round_trip_into_a_plain_model_and_back() -> None:
    model = make_model()
    masks = make_masks(model)
    hold(model, masks)
    train(model)
    plain = make_model()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain[0].weight, model[0].weight)
    other = make_model()
    handle = hold(other, masks)
    other.load_state_dict(model.state_dict(), strict=True)
    handle.check()


@pytest.mark.parametrize("assign", [False, True])
def test_dense_weights_loaded_later_are_found_and_projected(assign: bool) -> None:
    model = make_model()
    handle = hold(model, make_masks(model))
    handle.check()
    model.load_state_dict(dense_state(model), assign=assign)
    with pytest.raises(LeakError):
        handle.check()
    handle.project()
    handle.check()
    model.load_state_dict(dense_state(model), assign=assign)
    train(model, 1)
    handle.check()
    train(model, 3)
    handle.check()


@contextmanager
def future(**switches: bool) -> Iterator[None]:
    try:
        for name, value in switches.items():
            getattr(torch.__future__, f"set_{name}")(value)
        yield
    finally:
        for name, value in switches.items():
            getattr(torch.__future__, f"set_{name}")(not value)


@pytest.mark.parametrize(
    "switches", [{}, {"overwrite_module_params_on_conversion": True}, {"swap_module_params_on_conversion": True}]
)
def test_conversion_to_another_dtype(switches: dict[str, bool]) -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    train(model)
    with future(**switches):
        model.double()
    train(model)
    handle.check()
    train(model)
    assert not model[0].weight.grad[~masks["0.weight"]].any()
    assert model[0].weight.dtype == torch.float64
    handle.check()


def test_gradients_written_by_hand_are_masked_before_the_step() -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    optimizer = torch.optim.Adafactor(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not model[0].weight.grad[~masks["0.weight"]].any()
    assert model[0].weight.grad[masks["0.weight"]].all()
    handle.check()


def test_a_model_made_on_meta_and_filled_later() -> None:
    with torch.device("meta"):
        model = make_model()
    masks = make_masks(make_model())
    handle = hold(model, masks)
    model.to_empty(device="cpu")
    model.load_state_dict(make_model().state_dict())
    train(model)
    handle.check()
    train(model)
    assert not model[0].weight.grad[~masks["0.weight"]].any()


def test_data_pointed_elsewhere() -> None:
    model = make_model()
    handle = hold(model, make_masks(model))
    model[0].weight.data = torch.randn(8, 6)
    train(model)
    handle.check()


def test_a_module_replaced_by_another_is_found_again() -> None:
    model = make_model()
    handle = hold(model, make_masks(model))
    with pytest.warns(UserWarning, match=r"'3\.weight' belongs to another layer than when it was held"):
        model[3] = nn.Linear(8, 2)
    gc.collect()
    with pytest.raises(LeakError):
        handle.check()
    train(model)
    handle.check()


def test_frozen_weights_stay_zero_and_are_held_once_thawed() -> None:
    model = make_model()
    model[0].weight.requires_grad_(False)
    masks = make_masks(model)
    handle = hold(model, masks)
    train(model)
    handle.check()
    model[0].weight.requires_grad_(True)
    train(model)
    assert not model[0].weight.grad[~masks["0.weight"]].any()
    handle.check()


# Shapes of models


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)
        self.b = nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(inputs).tanh())


@pytest.mark.parametrize("names", [("a.weight",), ("b.weight",), ("a.weight", "b.weight")])
def test_tied_weights(names: tuple[str, ...]) -> None:
    model = Tied()
    mask = torch.rand(6, 6) < 0.5
    handle = hold(model, Masks({name: mask for name in names}))
    train(model)
    handle.check()
    assert model.a.weight is model.b.weight
    twin = copy.deepcopy(model)
    train(twin)
    held(twin)[0].check()
    assert twin.a.weight is twin.b.weight
    handle.replace(Masks({name: ~mask for name in names}))
    train(model)
    handle.check()


def test_recurrent_and_attention_weights_with_biases() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            out, _ = self.rnn(inputs[:, None].expand(-1, 3, -1))
            return self.attention(out, out, out, need_weights=False)[0].mean(1)

    model = Mixed()
    handle = hold(model, Masks({n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters()}))
    train(model)
    handle.check()
    twin = copy.deepcopy(model).double()
    train(twin)
    held(twin)[0].check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_moved_to_a_gpu_under_a_fused_capturable_optimizer() -> None:
    model = make_model()
    masks = make_masks(model)
    handle = hold(model, masks)
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True, capturable=True)
    train(model, 3, optimizer)
    handle.check()
    assert not model[0].weight.grad[~masks["0.weight"].cuda()].any()
    model.cpu()
    train(model)
    handle.check()


# Compilation


def test_compiled_in_one_graph() -> None:
    model = make_model()
    masks = make_masks(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    handle = hold(model, masks)
    train(compiled)
    handle.check()
    assert not model[0].weight.grad[~masks["0.weight"]].any()
    handle.release()
    again = hold(compiled, masks)  # the wrapper's names do not matter
    train(compiled)
    again.check()
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_by_inductor_equals_eager() -> None:
    eager = make_model()
    masks = make_masks(eager)
    handle = hold(eager, masks)
    twin = copy.deepcopy(eager)
    state = torch.get_rng_state()
    train(eager)
    torch.set_rng_state(state)
    train(torch.compile(twin, fullgraph=True))
    handle.check()
    held(twin)[0].check()
    assert torch.allclose(twin[0].weight, eager[0].weight, atol=1e-6)
    torch.compiler.reset()
