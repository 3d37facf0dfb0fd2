"""Kronecker factors and gradient snapshots, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Measure, SecateurError, gather, prunable
from secateur.curvature import categorical, gaussian, input_factor, output_factor, snapshots


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        layers = [nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)]
        return nn.Sequential(*layers).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, 5, 5, dtype=torch.float64, generator=drawn), torch.arange(n) % 3) for n in (4, 6)]


def found(model: nn.Module, measure: Measure, data: list, seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return gather(model, data, [measure], params=prunable(model), generator=drawn)[measure.name]


def test_inputs_are_a_mean_over_samples_and_a_sum_over_places() -> None:
    model, data = net(), batches()
    a = found(model, input_factor(), data)
    x = torch.cat([x for x, _ in data])
    for group in range(2):
        want = torch.zeros(18, 18, dtype=torch.float64)
        padded = F.pad(x[:, 2 * group : 2 * group + 2], (1, 1, 1, 1))
        for n in range(10):
            for i in range(3):
                for j in range(3):
                    patch = padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten()
                    want += torch.outer(patch, patch)
        torch.testing.assert_close(a["0.weight"][group], want / 10)
    h = model[:3](x).detach()
    torch.testing.assert_close(a["3.weight"], h.T @ h / 10)


def test_outputs_are_a_mean_over_samples_and_places_of_drawn_labels() -> None:
    model, data = net(), batches()
    g = found(model, output_factor(draws=2), data, seed=3)
    drawn = torch.Generator().manual_seed(3)
    want = {"0.weight": torch.zeros(6, 6).double(), "3.weight": torch.zeros(3, 3).double()}
    for x, _ in data:
        for _ in range(2):
            labels = categorical().draw(model(x).detach(), drawn)
            for n in range(len(x)):
                first = model[0](x[n : n + 1])
                last = model[3](model[2](model[1](first)))
                grads = torch.autograd.grad(F.cross_entropy(last, labels[n : n + 1]), [first, last])
                rows = grads[0][0].flatten(1).T
                want["0.weight"] += rows.T @ rows / 9
                want["3.weight"] += grads[1].T @ grads[1]
    for name, value in want.items():
        torch.testing.assert_close(g[name], value / 20)


def test_of_one_sample_the_two_factors_are_the_fisher_matrix() -> None:
    model, x = nn.Linear(3, 4).double(), torch.randn(1, 3, dtype=torch.float64)
    a, g = found(model, input_factor(), [x])["weight"], found(model, output_factor(draws=3000), [x])["weight"]
    p = model(x).detach().softmax(1)[0]
    fisher = torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(x[0], x[0]))
    torch.testing.assert_close(torch.kron(g, a), fisher, rtol=0.2, atol=0.05)
    squared = found(model, output_factor(draws=3000, likelihood=gaussian()), [x])["weight"]
    torch.testing.assert_close(squared, torch.eye(4).double(), rtol=0, atol=0.12)


def test_snapshots_are_each_samples_gradient_in_order() -> None:
    model, data = net(), batches()
    rows = found(model, snapshots(), data)
    params, n = prunable(model), 0
    for x, y in data:
        for k in range(len(x)):
            loss = F.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
            for name, grad in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
                torch.testing.assert_close(rows[name][n], grad)
            n += 1
    grouped = found(model, snapshots(group=3), data)["3.weight"]
    assert len(grouped) == 4  # 3 and 1 of the first batch, 3 and 3 of the second
    torch.testing.assert_close(grouped[0], rows["3.weight"][:3].mean(0))
    assert len(found(model, snapshots(most=5), data)["0.weight"]) == 5
    with pytest.raises(SecateurError, match="at least 1, got 0"):
        snapshots(group=0)


def test_layers_that_cannot_be_seen_or_never_run_are_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    batch = (torch.randn(2, 3), torch.tensor([0, 1]))
    for measure in (input_factor(), output_factor(), snapshots()):
        with pytest.raises(SecateurError, match=r"idle\.weight"):
            found(Idle(), measure, [batch])
    with pytest.raises(SecateurError, match="not finite"):
        found(nn.Linear(3, 2), output_factor(), [torch.full((2, 3), torch.nan)])
