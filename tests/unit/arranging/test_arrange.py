"""Channels in another order: the same function, more kept by N:M, and what cannot be reordered is left alone."""

from __future__ import annotations

import copy
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from secateur import SecateurError, methods, prune, scope
from secateur.arranging import arrange_, kept_by, order_for


def _convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(16, 24, 3),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, groups=24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.Tanh(),
        nn.Linear(12, 4),
    )
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    net[1].running_mean.normal_()
    return net


def _kept(net: nn.Module, x: Tensor) -> float:
    """How much of |w| 2:4 keeps of the hidden layers."""
    pruned = copy.deepcopy(net)
    only = ["4.weight", "9.weight", "11.weight"]
    prune(pruned, methods.magnitude(0.5, scope=scope.n_of_m(2, 4)), only=only)
    return sum(float(pruned.get_parameter(name).detach().abs().sum()) for name in only)


def test_the_function_stays_and_more_is_kept() -> None:
    net, x = _convolutions(), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    dense, modes = copy.deepcopy(net).eval(), [module.training for module in net.modules()]
    state = torch.get_rng_state()
    found = arrange_(net, x)
    assert modes == [module.training for module in net.modules()] and torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(net.eval()(x), dense(x))
    assert _kept(net, x) > _kept(dense, x) and found.after > found.before and found.error < 1e-5
    assert list(found.orders) == ["0.weight[0]", "4.weight[0]", "9.weight[0]"]
    order = found.orders["0.weight[0]"]
    assert torch.equal(net[1].running_mean, dense[1].running_mean[order]) and not torch.equal(order, torch.arange(16))
    assert torch.equal(net[0].weight, dense[0].weight[order])
    columns = (
        torch.cat([each.abs().flatten() for each in (dense[4].weight, dense[9].weight, dense[11].weight)])
        .sum()
        .detach()
    )
    assert found.before == pytest.approx(_kept(dense, x) / float(columns), rel=1e-5)
    assert found.after == pytest.approx(_kept(net, x) / float(columns), rel=1e-5)


class _Ordered(nn.Module):
    """Looks at which channel is which: no order but its own will do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scale = torch.arange(8.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale.to(x.device))


def test_where_the_order_matters_the_old_one_comes_back() -> None:
    torch.manual_seed(2)
    net, x = _Ordered(), torch.randn(5, 4)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    wanted = net(x)
    try:
        assert arrange_(net, x).orders == {}
    except SecateurError as problem:  # the trace may have seen it
        assert "can be reordered" in str(problem)
    torch.testing.assert_close(net(x), wanted, rtol=0, atol=0)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_what_is_not_divided_by_m_is_told() -> None:
    with pytest.raises(SecateurError, match="No hidden channels of Sequential can be reordered for 2:4"):
        arrange_(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.zeros(1, 4))


# --- the search -------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_the_sum_of_the_largest() -> None:
    worth = torch.rand(5, 12, generator=torch.Generator().manual_seed(3))
    wanted = sum(sum(sorted(row[4 * g : 4 * g + 4], reverse=True)[:2]) for row in worth.tolist() for g in range(3))
    assert kept_by(worth, 2, 4) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2)])
def test_an_order_is_one_and_never_worse(n: int, m: int) -> None:
    worth = torch.rand(6, 16, generator=torch.Generator().manual_seed(4))
    sums = [kept_by(worth[:, order_for(worth, n, m, rounds=rounds)], n, m) for rounds in (0, 1, 5, 50)]
    assert sums == sorted(sums) and sums[0] == pytest.approx(kept_by(worth, n, m)) and sums[-1] > sums[0]
    order = order_for(worth, n, m)
    assert sorted(order.tolist()) == list(range(16)) and torch.equal(order, order_for(worth, n, m))


def test_small_searches_reach_the_best_of_all_orders() -> None:
    for seed in range(3):
        worth = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed))
        best = max(kept_by(worth[:, list(order)], 1, 3) for order in permutations(range(6)))
        start = kept_by(worth, 1, 3)
        found = kept_by(worth[:, order_for(worth, 1, 3)], 1, 3)
        assert start <= found <= best + 1e-6 and found >= start + 0.5 * (best - start) - 1e-6


def test_patterns_that_cannot_be_are_refused() -> None:
    with pytest.raises(SecateurError, match="divisible by M, got 2:4 of 6 columns"):
        order_for(torch.ones(2, 6), 2, 4)
