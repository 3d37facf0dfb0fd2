"""SSL: unit gradients per group, groups as rows and columns of the lowered matrix, the clamp, and sound depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import batch, mlp
from secateur import EmptyLayerWarning, Pruner, SecateurError, TiedScoresWarning, UnfitModelError, methods, structure
from secateur.axes import Structure
from secateur.penalties import group_lasso

KINDS = (structure.filters(), structure.columns(), structure.shapes(), structure.whole())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_gradient_of_each_group_has_unit_norm_and_a_dead_one_has_none(kind: Structure) -> None:
    drawn = torch.randn(6, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = drawn.requires_grad_()
    with torch.no_grad():
        dead = kind.expand({"w": torch.arange(len(kind.split(weight))) == 1}, {"w": weight.shape})["w"]
        weight[dead] = 0
    term = group_lasso(1.0, kind).term
    assert term is not None
    (grad,) = torch.autograd.grad(term("w", weight), weight)
    norms = kind.split(grad).norm(dim=1)
    alive = kind.split(weight).detach().norm(dim=1) > 0
    torch.testing.assert_close(norms, alive.to(norms.dtype))


def test_filters_and_shapes_are_rows_and_columns_of_the_lowered_matrix() -> None:
    weight = torch.arange(4 * 3 * 2 * 2.0).reshape(4, 3, 2, 2)
    lowered = weight.flatten(1)  # what im2col multiplies
    assert torch.equal(structure.filters().split(weight), lowered)
    assert torch.equal(structure.shapes().split(weight), lowered.T)
    channel = structure.columns().split(weight)
    assert torch.equal(channel[1].sort().values, weight[:, 1].flatten().sort().values)


def _train(
    model: nn.Module, steps: int, *, only: str | None = None, lr: float = 1e-3, **options: object
) -> tuple[Pruner, list[Tensor]]:
    """Train to the cut; the weights are those of the step before it. Steps of the price are short of the clamp."""
    pruner = Pruner(model, methods.ssl(until=steps, **options), only=only)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    before: list[Tensor] = []
    for number in range(steps):
        inputs, targets = batch(number % 4)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        before = [p.detach().clone() for p in model.parameters() if p.dim() > 1] if number == steps - 2 else before
    return pruner, before


def test_neurons_die_as_one_and_are_cut() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[:5] *= 0.05
    pruner, before = _train(model, 300, strength=0.2)
    dead = (before[0] == 0).all(1)
    assert dead.tolist() == [True] * 5 + [False] * 15
    assert all(bool((w[w != 0].abs() >= 1e-4).all()) for w in before), "clamped at 1e-4"
    masks = pruner.finish()
    assert torch.equal(masks["0.weight"], ~dead[:, None].expand(20, 12)) and bool(masks["2.weight"].all())


def test_no_price_cuts_nothing_and_any_price_leaves_a_group_of_each_layer() -> None:
    assert _train(mlp(), 5, strength=0.0)[0].finish().density == 1
    model = mlp()
    with torch.no_grad():
        model[0].weight *= 1e-6
        model[2].weight *= 1e-6
    with pytest.warns(TiedScoresWarning):  # none is better than another
        masks = _train(model, 1, lr=1e-9)[0].finish()
    assert [int(mask.any(1).sum()) for mask in masks.values()] == [1, 1]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        x = torch.tanh(self.stem(x))
        return self.head(x + self.branch(x))


class Looking(Residual):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_whole_layers_go_only_where_the_signal_has_a_way_around_them() -> None:
    model = Residual().double()
    with torch.no_grad():
        model.branch.weight *= 0.02
    with pytest.warns(EmptyLayerWarning):
        pruner, _ = _train(model, 300, only="branch.weight", lr=5e-4, strength=0.5, structure=structure.whole())
    assert pruner.finish().kept == 0, "a priced branch ends, and the shortcut stays"
    for given, only in ((Residual(), None), (Residual(), "stem.weight"), (mlp(), "0.weight")):
        with pytest.raises(UnfitModelError, match=r"no signal reaches the output.*Name the layers inside residual"):
            Pruner(given, methods.ssl(until=5, structure=structure.whole()), only=only)
    with pytest.raises(UnfitModelError, match="cannot be traced"):
        Pruner(Looking(), methods.ssl(until=5, structure=structure.whole()), only="branch.weight")


def test_what_cannot_be_is_refused_before_anything_is_changed() -> None:
    model = mlp()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with pytest.raises(UnfitModelError, match=r"a linear layer has no filter shapes\. Narrow .* with `only=`"):
        Pruner(model, methods.ssl(until=5, structure=structure.shapes()))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    with pytest.raises(SecateurError, match="`strength` must be at least 0 and finite, got -1"):
        methods.ssl(until=5, strength=-1)
