"""Densities from measured errors: the budget exactly, the optimum of convex curves, and the model as it was."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import nn

from secateur import SecateurError, methods, prune
from secateur.allocating import allocate, shared_out
from secateur.axes import Method


def cost(curve: list[tuple[float, float]], density: float) -> float:
    """The lowest line over a curve: from (1, 0), growing by constant factors between points, in sixteenths."""
    points, last = [(1.0, 0.0)], (1.0, 0.0)
    for low, after in sorted(curve, reverse=True):
        shares = [k / 16 for k in range(1, 17)] if last[1] else [1.0]
        points += [
            (last[0] + (low - last[0]) * s, last[1] * (after / last[1]) ** s if last[1] else after) for s in shares
        ]
        last = (low, after)
    lines = [
        before + (after - before) * (high - density) / (high - low)
        for high, before in points
        for low, after in points
        if low - 1e-9 <= density <= high + 1e-9 and low < high
    ]
    return min(lines)


def test_the_sum_of_errors_is_the_least() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        sizes = {name: int(torch.randint(10, 100, (), generator=generator)) for name in "abc"}
        curves = {}
        for name in "abc":
            factors = (1 + 4 * torch.rand(4, generator=generator)).cumprod(0)
            curves[name] = [(1 - 0.2 * (k + 1), float(factors[k])) for k in range(4)]
        found = shared_out(sizes, curves, 0.55)
        assert sum(found[n] * sizes[n] for n in sizes) == pytest.approx(0.55 * sum(sizes.values()))
        least = sum(cost(curves[n], found[n]) for n in sizes)
        grid = torch.linspace(0.2, 1, 17).tolist()
        for one, two in product(grid, grid):  # whatever else meets the budget costs more
            three = (0.55 * sum(sizes.values()) - one * sizes["a"] - two * sizes["b"]) / sizes["c"]
            if 0.2 <= three <= 1:
                other = cost(curves["a"], one) + cost(curves["b"], two) + cost(curves["c"], three)
                assert least <= other + 1e-9


def test_curves_that_fall_or_bend_are_straightened() -> None:
    # 0.75 costs as much as 0.5, which noise made cheaper: the line goes past it, and the whole stretch has one price.
    sizes, curve = {"a": 100, "b": 100}, [(0.75, 4.0), (0.5, 3.0), (0.25, 9000.0)]
    found = shared_out(sizes, {"a": curve, "b": [(0.75, 100.0), (0.25, 200.0)]}, 0.75)
    assert found == {"a": 0.5, "b": 1.0}


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(SecateurError, match=r"`levels` end at 0.6 of all weights, above `density`=0.5"):
        shared_out({"a": 10, "b": 10}, {"a": [(0.5, 1.0)], "b": [(0.7, 1.0)]}, 0.5)


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(12, 24), nn.Linear(24, 12), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.relu(self.up(x)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(1.0), Block(0.01), Block(1.0), nn.Dropout(0.5), nn.Linear(12, 4))


@pytest.mark.parametrize("make", [methods.magnitude, methods.sparsegpt])
def test_a_block_that_hardly_matters_pays(make: object) -> None:
    model, batches = network(), list(torch.randn(96, 12).split(32))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert callable(make)
    found = allocate(model, make, batches, density=0.5, parts=["0", "1", "2"])
    assert found.densities["1"] == pytest.approx(0.25)
    assert found.densities["1"] < min(found.densities["0"], found.densities["2"])
    assert sum(found.densities.values()) / 3 == pytest.approx(0.5)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) and model.training
    for name, curve in found.errors.items():
        assert [level for level, _ in curve] == [0.8, 0.65, 0.5, 0.375, 0.25], name
        assert all(one < other for (_, one), (_, other) in pairwise(curve))
    blocks: dict[str, Method] = {name: make(own) for name, own in found.densities.items()}
    dense, uneven, even = network().eval(), network().eval(), network().eval()
    masks = prune(uneven, make(0.5), batches, blocks=blocks)
    prune(even, make(0.5), batches, blocks=["0", "1", "2"])
    assert masks.density == pytest.approx(0.5, abs=2e-3)
    x = torch.randn(64, 12)
    with torch.no_grad():
        errors = [float((each(x) - dense(x)).square().sum()) for each in (uneven, even)]
    assert errors[0] < errors[1]


def test_single_layers_are_parts_too_and_the_error_may_be_ones_own() -> None:
    model, seen = network(), []

    def error(pruned: nn.Module) -> float:
        seen.append(sum(float((p == 0).double().mean()) > 0.2 for n, p in pruned.named_parameters() if p.dim() > 1))
        return float(len(seen))

    found = allocate(
        model, methods.wanda, [torch.randn(16, 12)], density=0.6, parts=["[02].*"], levels=[0.6, 0.4], error=error
    )
    assert list(found.densities) == ["0.up", "0.down", "2.up", "2.down"]
    assert seen == [1] * 8  # one layer pruned at a time, the others dense


def test_wrong_arguments_are_named_and_nothing_changes() -> None:
    model, batch = network(), [torch.randn(8, 12)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SecateurError, match=r"`levels` must reach down to `density`=0.5"):
        allocate(model, methods.magnitude, batch, density=0.5, parts="0", levels=[0.9, 0.6])
    with pytest.raises(SecateurError, match=r"`levels` must be in \(0, 1\], got 1.5"):
        allocate(model, methods.magnitude, batch, density=0.5, parts="0", levels=[1.5, 0.5])
    with pytest.raises(SecateurError, match=r"`parts`: no module is called '9'"):
        allocate(model, methods.magnitude, batch, density=0.5, parts="9")
    with pytest.raises(SecateurError, match=r"`parts`: '3' has no prunable weights"):
        allocate(model, methods.magnitude, batch, density=0.5, parts="3")
    with pytest.raises(SecateurError, match=r"must return a number of at least 0, got nan with '0' pruned"):
        allocate(model, methods.magnitude, batch, density=0.5, parts="0", error=lambda _: float("nan"))
    with pytest.raises(SecateurError, match="add up to 0"):
        allocate(model, methods.magnitude, [], density=0.5, parts="0")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
