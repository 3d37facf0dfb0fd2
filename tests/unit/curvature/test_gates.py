"""Gates on whole units, against gates that stand in the forward, sample by sample; what units cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import coupling, gather, prunable, structure
from secateur.curvature import gate_fisher, gate_magnitude, gate_relevance, gate_taylor, macs_saved, memory_saved

DATA = [
    (torch.randn(4, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(k)), torch.arange(4) % 3)
    for k in range(2)
]


class Gated(nn.Module):
    """A stem with batch norm whose maps two branches read, added up; then pooled, flattened and classified."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.stem, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.left, self.right = nn.Conv2d(5, 4, 3), nn.Conv2d(5, 4, 3, bias=False)
            self.out = nn.Linear(16, 3)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
            nn.init.normal_(self.norm.bias)
            self.norm.running_mean = torch.randn(5)

    def forward(self, x: Tensor, stem: Tensor | None = None, both: Tensor | None = None) -> Tensor:
        h = F.relu(self.norm(self.stem(x)))
        h = h if stem is None else h * stem[:, None, None]
        h = F.max_pool2d(F.relu(self.left(h) + self.right(h)), 2)
        h = h if both is None else h * both[:, None, None]
        return self.out(h.flatten(1))


def gradients(model: Gated, *, each: bool) -> tuple[list[Tensor], list[Tensor]]:
    """∂L/∂m of each sample (or batch), for the units of the stem and of the two branches together."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for x, y in DATA:
        for n in range(len(x)) if each else [slice(None)]:
            part = slice(n, n + 1) if isinstance(n, int) else n
            gates = [torch.ones(5).double().requires_grad_(), torch.ones(4).double().requires_grad_()]
            loss = F.cross_entropy(model(x[part], *gates), y[part])
            for side, grad in zip(found, torch.autograd.grad(loss, gates), strict=True):
                side.append(grad)
    return found


@pytest.mark.parametrize(
    ("measure", "term", "each"),
    [
        (gate_magnitude(), lambda g: g.abs(), True),
        (gate_fisher(), lambda g: 0.5 * g.square(), True),
        (gate_taylor(), lambda g: g.square(), False),
        (gate_taylor(per_sample=True), lambda g: g.square(), True),
        (gate_relevance(), lambda g: -g, False),
    ],
    ids=["magnitude", "fisher", "taylor", "taylor per sample", "relevance"],
)
def test_it_is_the_gradient_of_a_gate_in_the_forward(measure, term, each) -> None:  # type: ignore[no-untyped-def]
    model = Gated().double().eval()
    params = prunable(model)
    found = gather(model.train(), DATA, [measure], params=params)[measure.name]
    stem, both = gradients(model.eval(), each=each)
    torch.testing.assert_close(found["stem.weight"], sum(map(term, stem)))
    whole = sum(map(term, both))
    # Two layers make these units: half of it each, and `channels` adds them up again.
    torch.testing.assert_close(found["left.weight"], whole / 2)
    torch.testing.assert_close(found["right.weight"], whole / 2)
    pooled = structure.channels(coupling.trace(model, DATA[0][0])).pool(found)
    torch.testing.assert_close(pooled["left.weight"], whole)


def test_of_coupled_layers_gradients_are_summed_before_they_are_squared() -> None:
    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
            with torch.no_grad():
                self.two.weight.copy_(self.one.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            return self.one(h) - self.two(h)

    model, batch = Cancelling().double(), (torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2)
    found = gather(model, [batch], [gate_fisher()], params=prunable(model))["gate_fisher"]
    assert float(found["first.weight"].abs().max()) < 1e-30
    with torch.no_grad():
        model.two.weight.mul_(0.5)
    found = gather(model, [batch], [gate_fisher()], params=prunable(model))["gate_fisher"]
    assert float(found["first.weight"].max()) > 1e-6


def test_a_gate_only_asks_those_that_it_needs_and_sees_readers_left_out() -> None:
    model = Gated().double().eval()
    whole = gather(model, DATA, [gate_fisher()], params=prunable(model))["gate_fisher"]
    alone = gather(model, DATA, [gate_fisher()], params=prunable(model, "stem.weight"))["gate_fisher"]
    torch.testing.assert_close(alone["stem.weight"], whole["stem.weight"])


def test_dead_units_and_zero_maps_are_worth_nothing() -> None:
    model = Gated().double().eval()
    with torch.no_grad():
        model.left.weight[:, 2] = 0
        model.right.weight[:, 2] = 0  # nobody reads it
        model.norm.weight[0], model.norm.bias[0] = 0.0, -1.0  # its map is zero
    found = gather(model, DATA, [gate_magnitude()], params=prunable(model))["gate_magnitude"]["stem.weight"]
    assert found[0] == 0 and found[2] == 0 and bool((found[[1, 3, 4]] > 0).all())


def test_what_a_unit_costs_by_hand() -> None:
    model = Gated().double().eval()
    found = coupling.trace(model, DATA[0][0])
    ids = {entry.names[0]: entry.ids for entry in found.entries if entry.dim == 0}
    memory, macs = memory_saved(found), macs_saved(found)
    np.testing.assert_allclose(memory[ids["stem.weight"]], 4 * 36)
    np.testing.assert_allclose(memory[ids["left.weight"]], 2 * 4 * 16)  # both convolutions' outputs
    np.testing.assert_allclose(macs[ids["stem.weight"]], 4 * 36 * 18 + 2 * 4 * 16 * 4 * 9)
    np.testing.assert_allclose(macs[ids["left.weight"]], 2 * 4 * 16 * 45 + 4 * 3 * 4)
    scaled = gather(model, DATA, [gate_fisher(cost=macs_saved)], params=prunable(model))["gate_fisher"]
    plain = gather(model, DATA, [gate_fisher()], params=prunable(model))["gate_fisher"]
    price = torch.from_numpy(macs[ids["stem.weight"]])
    torch.testing.assert_close(scaled["stem.weight"], plain["stem.weight"] / price)
