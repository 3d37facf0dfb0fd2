"""Importance of neurons against the recursion written out: chains, convolutions, pooling, sums, concatenations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import SecateurError, UnfitModelError, gather, prunable
from secateur.measures import Evidence
from secateur.propagation import importance, infinite_selection


def _first(features: Tensor) -> Tensor:
    """Importances of responses that need no data: 1, 2, 3, …"""
    return torch.arange(1, features.shape[1] + 1, dtype=torch.float64)


def _measured(model: nn.Module, x: Tensor, keep: float | None = None, *, scaled: bool = False) -> Evidence:
    measure = importance(ranking=_first, keep=keep, scaled=scaled)
    return gather(model, [(x, torch.zeros(len(x)))], [measure], params=prunable(model))["importance"]


def _chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 4),
        nn.Sigmoid(),
        nn.Dropout(),
        nn.Linear(4, 3),
        nn.Tanh(),
        nn.Linear(3, 2),
    )


def test_a_chain_multiplies_absolute_weights() -> None:
    model = _chain()
    found = _measured(model, torch.randn(8, 6))
    third = _first(torch.ones(1, 3))
    second = model[5].weight.abs().double().T @ third
    first = model[2].weight.abs().double().T @ second
    for name, wanted in (("5.weight", third), ("2.weight", second), ("0.weight", first), ("7.weight", torch.ones(2))):
        torch.testing.assert_close(found[name], wanted.detach().double())


def test_pruned_units_pass_nothing_on() -> None:
    model = _chain()
    found = _measured(model, torch.randn(8, 6), keep=0.5)
    third = _first(torch.ones(1, 3)) * torch.tensor([0, 1, 1])  # two of three
    second = model[5].weight.abs().double().T @ third
    kept = torch.zeros(4, dtype=torch.float64).scatter(0, second.topk(2).indices, 1)
    first = model[2].weight.abs().double().T @ (second * kept)
    torch.testing.assert_close(found["2.weight"], second.detach())
    torch.testing.assert_close(found["0.weight"], first.detach())


def test_exchanging_hidden_units_exchanges_their_importance() -> None:
    model, order = _chain(), torch.tensor([3, 1, 4, 0, 2])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order])
        other[2].weight.copy_(model[2].weight[:, order])
    x = torch.randn(8, 6)
    torch.testing.assert_close(_measured(other, x)["0.weight"], _measured(model, x)["0.weight"][order])


def test_a_unit_that_nothing_reads_is_worth_nothing() -> None:
    model = _chain()
    with torch.no_grad():
        model[2].weight[:, 3] = 0
    assert float(_measured(model, torch.randn(8, 6))["0.weight"][3]) == 0


def test_convolutions_under_circular_padding_are_the_channel_shortcut() -> None:
    """s_c = Σ_f Σ_uv |W_fcuv| s_f, once borders play no part."""
    torch.manual_seed(1)
    circular = {"padding": 1, "padding_mode": "circular"}
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, **circular),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, **circular),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(75, 2),
    )
    found = _measured(model, torch.randn(3, 2, 5, 5))
    of_maps = _first(torch.ones(1, 75)).reshape(3, 25).sum(1)
    torch.testing.assert_close(found["2.weight"], of_maps)
    shortcut = torch.einsum("fcuv,f->c", model[2].weight.abs().double(), of_maps)
    torch.testing.assert_close(found["0.weight"], shortcut.detach())


@pytest.mark.parametrize("kind", ["max", "functional", "mean", "adaptive", "adaptive_max"])
def test_pooling(kind: str) -> None:
    """Every input of a max window gets the window's importance, of a mean window its share."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.one, self.two = nn.Conv2d(1, 3, 3), nn.Linear(12, 2)
            pools = {"max": nn.MaxPool2d(2), "mean": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(2)}
            self.pool = pools.get(kind, nn.AdaptiveMaxPool2d(2))

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.one(x), inplace=True)
            h = F.max_pool2d(h, 2) if kind == "functional" else self.pool(h)
            return self.two(h.flatten(1))

    found = _measured(Pooled(), torch.randn(2, 1, 6, 6))
    windows = _first(torch.ones(1, 12)).reshape(3, 4).sum(1)
    torch.testing.assert_close(found["one.weight"], windows * (1 if kind in {"mean", "adaptive"} else 4))


def test_batch_norm_scales_and_both_terms_of_a_sum_receive_all_and_parts_of_a_concatenation_theirs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.one, self.norm, self.two, self.out = (
                nn.Linear(4, 3),
                nn.BatchNorm1d(3),
                nn.Linear(3, 3),
                nn.Linear(6, 2),
            )
            with torch.no_grad():
                self.norm.weight.copy_(torch.tensor([2.0, -3.0, 0.5]))
                self.norm.running_var.copy_(torch.tensor([4.0, 1.0, 9.0]))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.norm(self.one(x)))
            return self.out(torch.cat([h, h + self.two(h)], 1))

    model = Net()
    found, plain = _measured(model, torch.randn(5, 4), scaled=True), _measured(model, torch.randn(5, 4))
    responses = _first(torch.ones(1, 6))
    left, right = responses[:3], responses[3:]
    behind = left + right + model.two.weight.abs().double().T @ right
    scale = torch.tensor([2.0, 3.0, 0.5]).double() / (torch.tensor([4.0, 1.0, 9.0]).double() + 1e-5).sqrt()
    torch.testing.assert_close(found["two.weight"], right)
    torch.testing.assert_close(found["one.weight"], (scale * behind).detach())
    torch.testing.assert_close(plain["one.weight"], behind.detach())


def test_responses_are_ranked_on_the_data_of_all_batches() -> None:
    model = _chain()
    batches = [(torch.randn(8, 6), torch.zeros(8)), (torch.randn(5, 6), torch.zeros(5))]
    found = gather(model, batches, [importance()], params=prunable(model))["importance"]
    with torch.no_grad():
        responses = torch.cat([model[:7].eval()(x) for x, _ in batches])
    torch.testing.assert_close(found["5.weight"], infinite_selection(responses))


def test_it_leaves_no_trace_and_says_what_it_cannot() -> None:
    model = _chain().train()
    before = copy.deepcopy(model.state_dict())
    _measured(model, torch.randn(8, 6))
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(SecateurError, match=r"`keep` must be in \(0, 1\], got 0"):
        importance(keep=0)
    lstm = nn.LSTM(3, 4)
    with pytest.raises(SecateurError, match="none was called with a tensor"):  # nothing but a recurrent layer
        gather(lstm, [torch.randn(2, 5, 3)], [importance()], params=prunable(lstm))


def test_weights_that_importance_does_not_reach_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0][-1])

    net = Net()
    with pytest.raises(UnfitModelError, match=r"no importance reaches 'rnn\.weight_ih_l0'.*`only=`"):
        _measured(net, torch.randn(5, 6, 3))


def test_what_passes_on_is_counted_as_what_stays() -> None:
    """Of five units a half are three, as everywhere: the third passes its importance on."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    found = _measured(model, torch.randn(3, 4), keep=0.5)
    responses = _first(torch.ones(1, 5)) * torch.tensor([0, 0, 1, 1, 1])
    torch.testing.assert_close(found["0.weight"], (model[2].weight.abs().double().T @ responses).detach())
