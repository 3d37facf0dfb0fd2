"""OBS on quadratics, where its second order is all there is; and against brute force."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import UnfitModelError, gather, methods, prunable, prune, scores
from secateur.repairs import gauss_newton


def _quadratic(inputs: int = 8, outputs: int = 2, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer at the minimum of its squared error on correlated inputs."""
    torch.manual_seed(seed)
    x = torch.randn(40, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs, dtype=torch.float64)
    y = torch.randn(40, outputs, dtype=torch.float64)
    layer = nn.Linear(inputs, outputs, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return layer, x, y


def _loss(layer: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(F.mse_loss(layer(x), y).detach())


@pytest.mark.parametrize("cut", [1, 2, 7, 12])
def test_the_predicted_rise_is_the_measured_one(cut: int) -> None:
    layer, x, y = _quadratic()
    start, before = layer.weight.detach().flatten().clone(), _loss(layer, x, y)
    hessian = gather(layer, [(x, y)], [gauss_newton()], params=prunable(layer), loss=F.mse_loss)["gauss_newton"][
        "weight"
    ]
    exact = torch.autograd.functional.hessian(lambda w: F.mse_loss(x @ w.reshape(2, 8).T, y), start)
    torch.testing.assert_close(hessian, exact, rtol=0, atol=1e-12)
    mask = prune(layer, methods.obs(1 - cut / 16, damping=0.0), [(x, y)], loss=F.mse_loss)["weight"]
    gone = (~mask).flatten()
    inverse = torch.linalg.inv(exact)
    predicted = 0.5 * start[gone] @ torch.linalg.solve(inverse[gone][:, gone], start[gone])
    assert int(gone.sum()) == cut
    assert abs(_loss(layer, x, y) - before - float(predicted)) < 1e-10


def test_one_removal_is_the_best_of_all_and_greedy_pairs_are_near_the_best() -> None:
    layer, x, y = _quadratic(6, 1, seed=2)
    start = layer.weight.detach().clone()

    def best(goes: tuple[int, ...]) -> float:
        stays = [place for place in range(6) if place not in goes]
        fitted = torch.linalg.lstsq(x[:, stays], y).solution
        return float(F.mse_loss(x[:, stays] @ fitted, y))

    for count in (1, 2):
        with torch.no_grad():
            layer.weight.copy_(start)
        mask = prune(layer, methods.obs(1 - count / 6, damping=0.0), [(x, y)], loss=F.mse_loss)["weight"]
        gone = tuple((~mask).flatten().nonzero().flatten().tolist())
        assert _loss(layer, x, y) == pytest.approx(best(gone), rel=1e-9)
        costs = sorted(best(goes) for goes in combinations(range(6), count))
        assert _loss(layer, x, y) == pytest.approx(costs[0], rel=1e-9) if count == 1 else _loss(layer, x, y) <= costs[3]


def test_a_diagonal_curvature_leaves_obd() -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(9, 1, bias=False).double(), torch.diag(torch.rand(9, dtype=torch.float64) + 0.1)
    y = layer(x).detach()
    before = layer.weight.detach().clone()
    found = scores(layer, methods.obs(0.5, damping=0.0), [(x, y)], loss=F.mse_loss)["weight"]
    mask = prune(layer, methods.obs(0.5, damping=0.0), [(x, y)], loss=F.mse_loss)["weight"]
    curvature = 2 / 9 * x.square().sum(0)
    worth = 0.5 * curvature * before[0].square()
    wanted = worth.argsort(descending=True)[:5].sort().values
    assert mask[0].nonzero().flatten().tolist() == wanted.tolist()
    torch.testing.assert_close(layer.weight.detach(), before * mask)
    torch.testing.assert_close(found[~mask], worth[~mask[0]])  # levels rise as they go: cheapest first


def test_cross_entropy_over_layers_and_batches() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batches = [(torch.randn(8, 5, dtype=torch.float64), torch.randint(3, (8,))) for _ in range(2)]
    params = prunable(net)
    found = gather(net, batches, [gauss_newton()], params=params)["gauss_newton"]
    whole = torch.cat(list(found.values()))
    wanted = torch.zeros(48, 48, dtype=torch.float64)
    for x, _ in batches:
        for sample in x:
            z = net(sample)
            rows = [torch.autograd.grad(z[k], list(params.values()), retain_graph=True) for k in range(3)]
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            p = z.softmax(0).detach()
            wanted += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / 8
    torch.testing.assert_close(whole, wanted)
    dense, plain = (copy.deepcopy(net) for _ in range(2))
    masks = prune(net, methods.obs(0.7), batches)
    masks.apply_(plain)
    rises = [
        sum(
            float(F.kl_div(each(x).log_softmax(1), dense(x).softmax(1), reduction="batchmean").detach())
            for x, _ in batches
        )
        for each in (net, plain)
    ]
    assert masks.kept == 34 and rises[0] < rises[1]


def test_large_networks_are_refused() -> None:
    with pytest.raises(UnfitModelError, match=r"this network has 5000, more than `most`=1024.*obc or l_obs"):
        prune(nn.Linear(100, 50), methods.obs(0.5), [(torch.randn(4, 100), torch.arange(4))])
