"""Dropout rescaled: by the layer that each dropout feeds, by the square root of what is left of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, hold, prune, scope
from secateur._base.errors import SecateurError
from secateur.methods import magnitude
from secateur.retraining import dropout_rates, rescaled_dropout, retrained


def _half(shape: tuple[int, ...], kept: int) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[:kept] = True
    return mask


class _Branches(nn.Module):
    """A dropout that feeds two layers, one of them through a norm; one on the input, and one on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Dropout(0.4), nn.Dropout(0.5), nn.Dropout(0.3)
        self.body, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.shared(torch.relu(self.body(self.first(x))))
        return self.last(self.a(hidden) + self.b(self.norm(hidden) * 2 + 1))


def test_each_dropout_is_scaled_by_what_it_feeds() -> None:
    model = _Branches()
    masks = {"body.weight": _half((8, 6), 12), "a.weight": _half((4, 8), 8), "b.weight": _half((4, 8), 24)}
    rates = dropout_rates(model, masks, torch.randn(3, 6))
    assert rates == {
        "first": pytest.approx(0.4 * math.sqrt(12 / 48)),
        "shared": pytest.approx(0.5 * math.sqrt((8 + 24) / (32 + 32))),
    }  # the last one feeds nothing that is masked


def test_layers_without_a_mask_are_looked_through() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 4))
    rates = dropout_rates(model, {"3.weight": _half((4, 4), 4)}, torch.randn(2, 4))
    assert rates == {"0": pytest.approx(0.25), "2": pytest.approx(0.1)}


def test_a_tied_weight_is_fed_wherever_it_stands() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 4))
    model[4].weight = model[0].weight
    rates = dropout_rates(model, {"0.weight": _half((4, 4), 4), "2.weight": _half((4, 4), 16)}, torch.randn(2, 4))
    assert rates == {"1": pytest.approx(0.5), "3": pytest.approx(0.1)}


def test_in_a_transformer_a_dropout_feeds_the_next_matrix_through_residuals_and_norms() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
    masks = {
        "self_attn.in_proj_weight": _half((24, 8), 48),
        "linear1.weight": _half((12, 8), 6),
        "linear2.weight": _half((8, 12), 24),
    }
    rates = dropout_rates(
        nn.Sequential(layer), {f"0.{name}": mask for name, mask in masks.items()}, torch.randn(2, 3, 8)
    )
    expected = {"0.dropout1": 0.1 * math.sqrt(6 / 96), "0.dropout": 0.1 * math.sqrt(24 / 96)}
    assert rates == {name: pytest.approx(rate) for name, rate in expected.items()}  # dropout2 leads out of the network


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
def test_rates_never_rise_and_a_whole_network_keeps_them(density: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Dropout(0.6),
        nn.Linear(64, 5),
    )
    masks = prune(model, magnitude(density, scope=scope.layerwise()))
    rates = dropout_rates(model, masks, torch.randn(2, 1, 8, 8))
    for name, weight, old in (("2", "3.weight", 0.3), ("5", "6.weight", 0.6)):
        assert rates[name] == pytest.approx(old * math.sqrt(float(masks[weight].double().mean())))
        assert 0 <= rates[name] <= old
    if density == 1:
        assert list(rates.values()) == [0.3, 0.6]


def test_integers_as_inputs_and_keyword_batches() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.drop, self.head = nn.Embedding(7, 4), nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.drop(self.embed(ids)))

    masks = {"head.weight": _half((2, 4), 2)}
    expected = {"drop": pytest.approx(0.25)}
    assert dropout_rates(Words(), masks, torch.randint(7, (2, 3))) == expected
    assert dropout_rates(Words(), masks, {"ids": torch.randint(7, (2, 3))}) == expected
    assert dropout_rates(Words(), masks, (torch.randint(7, (2, 3)), torch.tensor(0))) == expected


def test_the_model_is_left_as_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model(torch.randn(5, 4)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state, inputs = torch.get_rng_state(), torch.randn(5, 4)
    state = torch.get_rng_state()
    dropout_rates(model, {"3.weight": _half((2, 4), 2)}, inputs)
    assert torch.equal(state, torch.get_rng_state()) and not inputs.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(
        torch.equal(a, b)
        for a, b in zip(grads, [p.grad for p in model.parameters() if p.grad is not None], strict=True)
    )
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_inside_the_rates_hold_and_outside_they_are_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    masks = Masks({"2.weight": _half((2, 4), 2)})
    for _ in range(2):  # D_o is the network's own rate however often it is rescaled
        with pytest.raises(KeyError), rescaled_dropout(model, masks, torch.randn(1, 4)) as rates:
            assert model[1].p == rates["1"] == pytest.approx(0.25)
            raise KeyError
        assert model[1].p == 0.5


def test_masks_of_another_model_are_refused_and_the_rates_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(SecateurError, match="9"):
        dropout_rates(model, {"9.weight": _half((2, 4), 2)}, torch.randn(1, 4))
    assert model[1].p == 0.5


def test_everything_at_once_for_survivors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 2))
    masks = prune(model, magnitude(0.5))
    still = model.get_parameter("0.weight").detach().clone()
    with retrained(model, masks, still="0.*", batch=torch.randn(2, 1, 4, 4)):
        rate = float(model[2].p)  # type: ignore[arg-type]
        assert rate == pytest.approx(0.5 * math.sqrt(float(masks["3.weight"].double().mean())))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 1, 4, 4)).square().sum().backward()
            optimizer.step()
    assert torch.equal(model.get_parameter("0.weight"), still) and model[2].p == 0.5
    assert bool((model.get_parameter("3.weight")[~masks["3.weight"]] == 0).all())
    with hold(model, masks):  # nothing is left on the model that would be in the way
        pass
