"""EigenDamage: turned layers are the same layers, what is left out is worth least, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import SecateurError, UnfitModelError, gather, prunable
from secateur.curvature import input_factor, output_factor
from secateur.rotation import eigen_damage

X = torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(),
            nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 4),
        ).double().eval()  # fmt: skip


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_with_nothing_left_out_it_is_the_same_function() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = eigen_damage(model, [X], density=1.0, larger=True, generator=seeded())
    assert all(isinstance(found.model.get_submodule(name), nn.Sequential) for name in ("0", "3", "6", "8"))
    torch.testing.assert_close(found.model(X), model(X))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    whole = eigen_damage(model, [X], density=1.0, generator=seeded())
    assert isinstance(whole.model.get_submodule("0"), nn.Conv2d)  # three larger layers: not worth it
    assert all(each.before == each.after for each in whole.layers.values())


def test_the_worth_of_all_entries_is_the_trace_and_the_least_go() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(30, 6, dtype=torch.float64)
    params = prunable(model)
    both = gather(model, [x], [input_factor(), output_factor()], params=params, generator=seeded())
    found = eigen_damage(model, [x], density=0.6, larger=True, generator=seeded())
    worths, kept = [], 0
    for name, p in params.items():
        a, g = both["input_factor"][name], both["output_factor"][name]
        (la, qa), (lg, qg) = torch.linalg.eigh(a), torch.linalg.eigh(g)
        star = qg.T @ p.detach() @ qa
        worth = star.square() * torch.outer(lg.clamp(min=0), la.clamp(min=0))
        torch.testing.assert_close(worth.sum(), torch.trace(g @ p.detach() @ a @ p.detach().T))
        worths += [(float(w), name, "out") for w in worth.sum(1)] + [(float(w), name, "in") for w in worth.sum(0)]
        kept += found.layers[name].inputs[0] + found.layers[name].outputs[0]
    assert kept == round(0.6 * 19)
    best = sorted(worths, reverse=True)[:kept]
    for name, layer in found.layers.items():
        assert layer.inputs[0] == sum(b[1:] == (name, "in") for b in best)
        assert layer.outputs[0] == sum(b[1:] == (name, "out") for b in best)


def test_inputs_that_live_in_few_directions_cost_nothing_to_cut_to_those() -> None:
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    x = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 20, dtype=torch.float64)
    found = eigen_damage(model, [x], density=(3 + 16) / 36, only="0.weight", generator=seeded())
    assert found.layers["0.weight"].inputs == (3, 20) and found.layers["0.weight"].outputs == (16, 16)
    wide = eigen_damage(model, [x], density=19 / 36, only="0.weight", larger=True, generator=seeded())
    torch.testing.assert_close(wide.model(x), model(x))


def test_it_gets_smaller_trains_and_keeps_its_modes() -> None:
    model = net()
    found = eigen_damage(model, [(X, torch.arange(16) % 4)], density=0.2, generator=seeded())
    count = sum(p.numel() for p in found.model.parameters())
    assert count < sum(p.numel() for p in model.parameters()) and "weights before" in str(found)
    found.model.train()
    loss = nn.functional.cross_entropy(found.model(X), torch.arange(16) % 4)
    loss.backward()
    assert all(p.grad is not None for p in found.model.parameters())
    assert found.model(X).shape == (16, 4)


def test_what_cannot_be_turned_is_refused_or_left() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(5, 4, 2, 2)
    assert list(eigen_damage(grouped, [x], density=0.5).layers) == ["2.weight"]
    with pytest.raises(UnfitModelError, match="there is none among"):
        eigen_damage(grouped, [x], density=0.5, only="0.weight")
    with pytest.raises(SecateurError, match="fewer than one for each side"):
        eigen_damage(net(), [X], density=0.01)
    with pytest.raises(SecateurError, match="not finite"):
        eigen_damage(net(), [torch.full_like(X, torch.nan)], density=0.5)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.two(self.one(x)))

    assert list(eigen_damage(Tied(), [torch.randn(6, 4)], density=0.5).layers) == ["out.weight"]
