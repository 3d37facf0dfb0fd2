"""L0 against its equations: chances, openings, the price and its gradient, and what is left when the gates go."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from online_cases import batch, mlp, sgd
from online_cases import step as train
from secateur import Pruner, methods
from secateur._base.errors import GateOptionsWarning, SecateurError
from secateur.gates import HardConcrete

LOG11 = math.log(11)
STRENGTH = 0.01


def _gate(log_alpha: list[float], rows: int = 1, strength: float = STRENGTH) -> tuple[HardConcrete, nn.Parameter]:
    weight = nn.Parameter(torch.ones(rows, len(log_alpha), dtype=torch.float64))
    gate = HardConcrete(weight, strength=strength, open_at_start=0.5).double()
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([log_alpha], dtype=torch.float64))
    return gate, weight


def _gates(model: nn.Module) -> dict[str, HardConcrete]:
    return {n.removesuffix("_gate"): gate for n, gate in model.named_modules() if isinstance(gate, HardConcrete)}


def _opening(log_alpha: Tensor) -> Tensor:
    return (1.2 / (1 + torch.exp(-log_alpha)) - 0.1).clip(0, 1)


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_the_chance_to_be_open() -> None:
    gate, _ = _gate([0.0, 1.0, -3.0])
    wanted = [1 / (1 + math.exp(-(value + 2 / 3 * LOG11))) for value in (0.0, 1.0, -3.0)]
    torch.testing.assert_close(gate.chance()[0].detach(), torch.tensor(wanted, dtype=torch.float64))
    assert round(wanted[0], 4) == 0.8318


def test_the_chance_is_how_often_a_draw_is_not_zero() -> None:
    n = 200_000
    for log_alpha in (-3.0, 0.0, 1.5):
        gate, weight = _gate([log_alpha] * n)
        drawn = gate(weight).detach()
        chance = float(gate.chance()[0, 0].detach())
        assert abs(float((drawn != 0).double().mean()) - chance) < 4 * (chance * (1 - chance) / n) ** 0.5
        # P(z ≤ x) = σ(β·logit((x − γ)/(ζ − γ)) − log α), for the 0 < x < 1 between the two lumps
        for x in (0.2, 0.7):
            stretched = (x + 0.1) / 1.2
            below = 1 / (1 + math.exp(log_alpha - 2 / 3 * math.log(stretched / (1 - stretched))))
            assert abs(float((drawn <= x).double().mean()) - below) < 4 * (below * (1 - below) / n) ** 0.5


def test_in_eval_mode_it_is_shut_below_minus_log_11_and_whole_above_log_11() -> None:
    gate, weight = _gate([-LOG11 - 1e-9, -LOG11 + 1e-9, 0.0, LOG11 - 1e-9, LOG11 + 1e-9])
    opened = gate.eval()(weight)[0]
    assert opened[0] == 0 < opened[1] and opened[3] < 1 == opened[4]
    torch.testing.assert_close(opened[2].item(), 0.5)
    assert gate.keep(weight).tolist() == [[False, True, True, True, True]]


def test_the_price_is_that_of_the_weights_behind_open_gates() -> None:
    gate, weight = _gate([0.0, 1.0, -2.0], rows=7)
    price = gate.penalty(weight)
    chance = torch.sigmoid(gate.log_alpha.detach() + 2 / 3 * LOG11)
    torch.testing.assert_close(price.detach(), STRENGTH * 7 * chance.sum())
    (slope,) = torch.autograd.grad(price, gate.log_alpha)
    torch.testing.assert_close(slope, STRENGTH * 7 * chance * (1 - chance))


def test_the_gradient_of_a_gate_is_zero_only_where_it_is_clipped() -> None:
    gate, weight = _gate([0.0] * 2000)
    drawn = gate(weight)
    (slope,) = torch.autograd.grad(drawn.sum(), gate.log_alpha)
    clipped = (drawn == 0) | (drawn == 1)
    assert 0 < int(clipped.sum()) < 2000 and torch.equal(slope == 0, clipped)


def test_gates_are_per_input_or_per_filter_and_start_where_they_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 500))
    Pruner(model, methods.l0(open_at_start=0.8))
    shapes = {name: tuple(gate.log_alpha.shape) for name, gate in _gates(model).items()}
    assert shapes == {"0.weight": (8, 1, 1, 1), "2.weight": (1, 8)}
    wide = nn.Linear(5000, 1)
    Pruner(wide, methods.l0(open_at_start=0.8))
    drawn = _gates(wide)["weight"].log_alpha.detach()
    assert abs(float(drawn.mean()) - math.log(4)) < 4 * 0.01 / 5000**0.5 and 0.009 < float(drawn.std()) < 0.011
    for options in ({"open_at_start": 1.0}, {"open_at_start": 0.0}, {"strength": -1.0}):
        with pytest.raises(SecateurError, match="hard_concrete needs"):
            methods.l0(**options)


# --- in training ------------------------------------------------------------------------------------------------------


def _hand_gated(model: nn.Module, factors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    """The output with the gated weights written out: w · z by name, everything else as it is."""
    own = {name: p for name, p in model.named_parameters() if not name.endswith("log_alpha")}
    return functional_call(model, {n: p * factors[n] if n in factors else p for n, p in own.items()}, inputs)


def test_one_step_descends_loss_and_price_together() -> None:
    model, plain = mlp(), mlp()
    pruner = Pruner(model, methods.l0(strength=STRENGTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    pruner.adopt(optimizer)
    gates = {name: gate.log_alpha.detach().clone().requires_grad_() for name, gate in _gates(model).items()}
    torch.manual_seed(3)
    train(model, optimizer, 0)
    torch.manual_seed(3)
    factors, price = {}, torch.zeros((), dtype=torch.float64)
    for name, log_alpha in gates.items():
        u = torch.empty_like(log_alpha).uniform_(1e-6, 1 - 1e-6)
        factors[name] = (1.2 * torch.sigmoid((torch.logit(u) + log_alpha) / (2 / 3)) - 0.1).clip(0, 1)
        behind = plain.get_parameter(name).shape[0]
        price = price + STRENGTH * behind * torch.sigmoid(log_alpha + 2 / 3 * LOG11).sum()
    loss = F.cross_entropy(_hand_gated(plain, factors, batch(0)[0]), batch(0)[1]) + price
    loss.backward()
    for name, log_alpha in gates.items():
        moved = log_alpha.detach() - 0.5 * log_alpha.grad
        torch.testing.assert_close(_gates(model)[name].log_alpha.detach(), moved)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).detach(), parameter.detach() - 0.5 * parameter.grad)


def test_the_folded_network_is_the_gated_one_in_eval_mode() -> None:
    model = mlp()
    keys = list(model.state_dict())
    pruner = Pruner(model, methods.l0(strength=0.001))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for t in range(40):
        train(model, optimizer, t)
    x = batch(0)[0]
    gated, masks = model.eval()(x), pruner.masks
    factors = {name: _opening(gate.log_alpha.detach()) for name, gate in _gates(model).items()}
    torch.testing.assert_close(gated, _hand_gated(mlp_like(model), factors, x))
    assert pruner.finish() == masks
    assert torch.equal(model(x), gated) and list(model.state_dict()) == keys and not _gates(model)
    assert 0 < masks.kept < masks.numel
    for name, mask in masks.items():
        assert torch.equal(mask, (factors[name] > 0).expand_as(mask))  # whole inputs go
        assert bool((model.get_parameter(name)[~mask] == 0).all())


def mlp_like(model: nn.Module) -> nn.Module:
    """A bare network with the weights of a gated one."""
    bare = mlp()
    bare.load_state_dict({name: model.get_parameter(name) for name in bare.state_dict()})
    return bare


def test_an_optimizer_made_before_the_pruner_trains_the_gates() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    pruner = Pruner(model, methods.l0())
    before = [gate.log_alpha.detach().clone() for gate in _gates(model).values()]
    train(model, optimizer, 0)
    assert all(bool((g.log_alpha != b).all()) for g, b in zip(_gates(model).values(), before, strict=True))
    pruner.release()
    assert not _gates(model)


@pytest.mark.parametrize("made_before", [True, False])
def test_adopted_gates_have_no_weight_decay_and_others_are_warned_of(made_before: bool) -> None:
    def begin() -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
        model = mlp()
        optimizer = sgd(model) if made_before else None
        pruner = Pruner(model, methods.l0())
        return model, pruner, optimizer or sgd(model)

    model, pruner, optimizer = begin()
    pruner.adopt(optimizer)
    own = {id(gate.log_alpha) for gate in _gates(model).values()}
    found = [(group, each) for group in optimizer.param_groups for each in group["params"] if id(each) in own]
    assert len(found) == len(own) and all(group["weight_decay"] == 0 and group["lr"] == 0.1 for group, _ in found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 0)
    model, pruner, optimizer = begin()
    with pytest.warns(GateOptionsWarning, match=r"'weight_decay': 0\.0.*'weight_decay': 0\.001.*adopt"):
        train(model, optimizer, 0)


def test_log_alpha_stays_within_the_authors_bounds() -> None:
    model = mlp()
    pruner = Pruner(model, methods.l0(strength=1e3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner.adopt(optimizer)
    for t in range(3):
        train(model, optimizer, t)
    for gate in _gates(model).values():
        torch.testing.assert_close(gate.log_alpha.detach(), torch.full_like(gate.log_alpha, -math.log(100)))
    assert pruner.masks.kept == 0


# --- layers that hold their weights in ways of their own --------------------------------------------------------------

LAYERS = {
    "lstm": (lambda: nn.LSTM(6, 4, num_layers=2, bidirectional=True), 1),
    "gru": (lambda: nn.GRU(6, 4), 1),
    "lstm_cell": (lambda: nn.LSTMCell(6, 4), 1),
    "attention": (lambda: nn.MultiheadAttention(6, 2), 3),
    "attention_of_other_sizes": (lambda: nn.MultiheadAttention(6, 2, kdim=6, vdim=6), 3),
    "transformer": (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), 1),
    "conv_transpose": (lambda: nn.ConvTranspose1d(5, 3, 2), 1),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_gated_weights_take_effect(kind: str, training: bool) -> None:
    make, copies = LAYERS[kind]
    layer = make().double()
    x = torch.randn(5, *([] if kind == "lstm_cell" else [5]), 6, dtype=torch.float64)
    bare = copy.deepcopy(layer)
    pruner = Pruner(layer, methods.l0())
    assert len(_gates(layer)) == len(pruner.masks)
    layer.train(training)
    bare.train(training)
    with torch.no_grad():
        for gate in _gates(layer).values():
            gate.log_alpha.uniform_(-3, 3)
    factors = {name: _opening(gate.log_alpha.detach()) for name, gate in _gates(layer).items()}
    if training:  # put the draw in place of the opening, so that the hand can do the same
        for name, gate in _gates(layer).items():
            gate.forward = lambda weight, z=factors[name]: weight * z
    with torch.no_grad():
        gated, plain = (_first(model(*[x] * copies)) for model in (layer, bare))
        by_hand = _first(
            functional_call(bare, {n: bare.get_parameter(n) * z for n, z in factors.items()}, (x,) * copies)
        )
    torch.testing.assert_close(gated, by_hand)
    assert not torch.allclose(gated, plain)
    assert all("weight" not in key or key in bare.state_dict() or "gate" in key for key in layer.state_dict())
    pruner.release()
    with torch.no_grad():
        assert torch.equal(_first(layer(*[x] * copies)), plain)


def _first(output: Tensor | tuple) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_a_copy_of_a_gated_model_has_gates_of_its_own() -> None:
    model = mlp()
    pruner, optimizer = Pruner(model, methods.l0(), generator=torch.Generator()), torch.optim.Adam(model.parameters())
    twin, x = copy.deepcopy(model).eval(), batch(0)[0]
    model.eval()
    assert torch.equal(model(x), twin(x))
    before = twin(x)
    with torch.no_grad():
        for gate in _gates(model).values():
            gate.log_alpha[0, 0] = -9.0
    assert torch.equal(twin(x), before) and not torch.equal(model(x), before)
    with torch.no_grad():
        for gate in _gates(twin).values():
            gate.log_alpha[0, 0] = -9.0
    assert torch.equal(twin(x), model(x))
    train(model.train(), optimizer, 0)
    pruner.finish()
    assert _gates(twin) and not _gates(model)
