"""Gates on a model: where they stand, and what folding must prove."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import Free, Liar, LiarOnOutput, OnLayer, OnOutput, Scale, Untidy, gated, gates, hooks
from online_cases import batch, mlp, same, sgd, weights
from online_cases import step as train
from secateur import Gate, Pruner
from secateur._base.errors import EmptyLayerWarning, SecateurError

# --- where they stand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [Scale, OnOutput, OnLayer])
def test_a_gate_takes_effect_and_folds_into_what_it_computed(gate: type[Gate]) -> None:
    model, x = mlp().eval(), batch(0)[0]
    plain, keys, found = model(x).detach(), list(model.state_dict()), hooks(model)
    pruner = Pruner(model, gated(gate))
    output = model(x)
    assert not torch.allclose(output, plain)
    factors = {n: torch.linspace(-0.5, 2.0, len(m)).clamp(min=0).double() for n, m in pruner.masks.items()}
    hidden = F.linear(x, mlp()[0].weight * factors["0.weight"][:, None], None)
    bias = mlp()[0].bias * (factors["0.weight"] if gate is OnOutput else 1)
    out = F.linear(torch.tanh(hidden + bias), mlp()[2].weight * factors["2.weight"][:, None])
    torch.testing.assert_close(output, out + mlp()[2].bias * (factors["2.weight"] if gate is OnOutput else 1))
    masks = pruner.finish()
    torch.testing.assert_close(model(x), output)
    for name, mask in masks.items():
        assert torch.equal(mask, (factors[name] > 0)[:, None].expand_as(mask))
    assert list(model.state_dict()) == keys and hooks(model) == found and not gates(model)


def test_a_gate_on_the_output_of_a_convolution_folds_into_its_filters() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 2)).double().eval()
    x = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    pruner = Pruner(model, gated(OnOutput))
    output = model(x)
    pruner.finish()
    torch.testing.assert_close(model(x), output)


def test_a_gate_on_outputs_needs_one() -> None:
    model = nn.LSTM(3, 4)
    Pruner(model, gated(OnOutput, "weight_ih"))
    with pytest.raises(SecateurError, match="needs a layer that returns a tensor, got tuple from LSTM"):
        model(torch.randn(2, 1, 3))


def test_a_tied_weight_is_gated_in_both_places_by_one_gate() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    model, x = Tied(), torch.randn(2, 5)
    pruner = Pruner(model, gated(Scale))
    assert len(gates(model)) == 1
    (gate,) = gates(model).values()
    used = gate(model.one.weight)
    output = model(x)
    torch.testing.assert_close(output, torch.tanh(x @ used.T) @ used.T)
    pruner.finish()
    torch.testing.assert_close(model(x), output)


def test_a_forward_that_fails_leaves_the_parameter_in_place() -> None:
    model = mlp()
    Pruner(model, gated(Scale))
    with pytest.raises(RuntimeError):
        model(torch.ones(2, 7, dtype=torch.float64))
    assert isinstance(model[0].weight, nn.Parameter) and "weight" not in model[0].__dict__


# --- how they end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [Liar, LiarOnOutput, Untidy])
def test_a_gate_that_folds_into_something_else_is_refused_and_nothing_is_written(gate: type[Gate]) -> None:
    model = mlp()
    pruner = Pruner(model, gated(gate))
    before = weights(model)
    with pytest.raises(SecateurError, match=f"{gate.__name__} on '0.weight' does not fold"):
        pruner.finish()
    after = weights(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    pruner.release()


def test_masks_that_empty_a_layer_are_refused_before_anything_is_written() -> None:
    for allowed in (False, True):
        model = mlp()
        pruner = Pruner(model, gated(Scale, "2."), allow_empty=allowed)
        with torch.no_grad():
            gates(model)["2.weight"].a.fill_(-1)
        before = weights(model)
        if allowed:
            with pytest.warns(EmptyLayerWarning, match=r"2\.weight"):
                assert not bool(pruner.finish()["2.weight"].any())
            continue
        with pytest.raises(SecateurError, match="allow_empty=False"):
            pruner.finish()
        assert gates(model) and all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("gate", [Scale, OnOutput, OnLayer, Free])
def test_release_takes_everything_away_and_writes_nothing(gate: type[Gate]) -> None:
    model, bare = mlp(), mlp()
    found, x = hooks(model), batch(0)[0]
    pruner = Pruner(model, gated(gate))
    pruner.release()
    pruner.release()
    assert same(model, bare) and hooks(model) == found and torch.equal(model(x), bare(x))
    optimizers = [sgd(model), sgd(bare)]
    for t in range(3):
        train(model, optimizers[0], t)
        train(bare, optimizers[1], t)
    assert same(model, bare)
    Pruner(model, gated(gate)).release()  # and others may come


def test_masks_taken_early_do_not_change_later() -> None:
    model = mlp()
    pruner, optimizer = Pruner(model, gated(Free)), sgd(model)
    first = pruner.masks
    kept = first.kept
    for t in range(5):
        train(model, optimizer, t)
    assert first.kept == kept and pruner.masks != first


def test_a_second_gate_on_a_weight_and_gates_on_none_are_refused() -> None:
    model = mlp()
    with pytest.raises(SecateurError, match="`relax` put up no gate"):
        Pruner(model, gated(Scale, "7."))
    assert not gates(model)
    Pruner(model, gated(Scale)).release()
