"""Low rank: the predictor against its formula, the identity at full rank, and who is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, gather, measures, methods, prunable, prune
from secateur._base.errors import SecateurError
from secateur.gates import squared_exponential


def _kernel(name: str, rows: Tensor) -> Tensor:
    return squared_exponential(rows.shape[1], length=1.5)


@pytest.mark.parametrize("kernel", [None, _kernel])
def test_all_places_without_ridge_are_the_identity(kernel) -> None:
    model = mlp()
    before = weights(model)
    Pruner(model, methods.low_rank(steps=0, share=1.0, kernel=kernel, ridge=0.0)).finish()
    for name, value in before.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), value, rtol=1e-6, atol=1e-6)


def test_without_a_kernel_it_begins_at_the_nearest_matrix_of_its_rank() -> None:
    model = mlp()
    before = weights(model)["0.weight"]
    Pruner(model, methods.low_rank(steps=0, share=0.25)).finish()
    found = model.get_parameter("0.weight").detach()
    sizes = torch.linalg.svdvals(before)
    assert int(torch.linalg.matrix_rank(found)) == 3  # a quarter of 12 inputs
    assert float((found - before).norm()) == pytest.approx(float(sizes[3:].norm()), rel=1e-9)


def test_rows_are_predicted_from_their_entries_by_the_kernel() -> None:
    layer = nn.Linear(9, 4, bias=False, dtype=torch.float64)
    weight, ridge = layer.weight.detach().clone(), 1e-3
    torch.manual_seed(7)
    places = torch.randperm(9)[:3].sort().values
    torch.manual_seed(7)
    kernel = squared_exponential(3, 3, length=0.8)
    pruner = Pruner(layer, methods.low_rank(steps=0, share=1 / 3, kernel=lambda _, w: kernel, ridge=ridge))
    assert torch.equal(gates(layer)["weight"].values.detach(), weight[:, places])
    pruner.finish()
    for row, found in zip(weight, layer.weight.detach(), strict=True):
        for p in range(9):
            distance = [(p // 3 - int(q) // 3) ** 2 + (p % 3 - int(q) % 3) ** 2 for q in places]
            near = torch.tensor([torch.tensor(-d / 1.28, dtype=torch.float64).exp() for d in distance])
            among = kernel[places][:, places] + ridge * torch.eye(3, dtype=torch.float64)
            assert float(found[p]) == pytest.approx(float(near @ torch.linalg.inv(among) @ row[places]), rel=1e-6)


def test_a_smooth_row_is_predicted_from_a_quarter_of_it() -> None:
    # What the paper found of first layers: near pixels have like weights.
    layer = nn.Linear(36, 1, bias=False, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    smooth = (torch.sin(rows / 3) * torch.cos(columns / 3)).double().reshape(1, 36)
    with torch.no_grad():
        layer.weight.copy_(smooth)
    torch.manual_seed(1)
    kernel = squared_exponential(6, 6, length=2.5)
    Pruner(layer, methods.low_rank(steps=0, share=0.25, kernel=lambda _, w: kernel)).finish()
    assert float((layer.weight.detach() - smooth).norm() / smooth.norm()) < 0.2


def test_second_moments_of_inputs_serve_as_a_kernel() -> None:
    model = mlp()
    seen = gather(model, [batch(0), batch(1)], [measures.gram()], params=prunable(model))["gram"]

    def covariance(name: str, rows: Tensor) -> Tensor | None:
        found = seen[name]
        return found.reshape(found.shape[-2:]) if found.shape[-1] == rows.shape[1] else None

    Pruner(model, methods.low_rank(steps=0, share=0.5, kernel=covariance)).finish()
    assert int(torch.linalg.matrix_rank(model.get_parameter("0.weight").detach())) <= 6


def test_only_the_values_are_trained_and_the_fold_computes_the_same() -> None:
    model = mlp()
    pruner = Pruner(model, methods.low_rank(steps=30, share=0.3))
    optimizer, before = sgd(model), weights(model)
    pruner.adopt(optimizer)
    fixed = {name: gate.dictionary.clone() for name, gate in gates(model).items()}
    first = F.cross_entropy(model(batch(0)[0]), batch(0)[1]).item()
    for _ in range(30):
        train(model, optimizer, 0)
    for name, gate in gates(model).items():
        assert torch.equal(gate.dictionary, fixed[name])
        assert torch.equal(model.get_parameter(name).detach(), before[name])
    outputs = model(batch(0)[0])
    assert F.cross_entropy(outputs, batch(0)[1]).item() < 0.8 * first
    assert pruner.finish().density == 1 and torch.equal(model(batch(0)[0]), outputs)
    weight = model.get_parameter("0.weight").detach()
    assert int(torch.linalg.matrix_rank(weight)) == fixed["0.weight"].shape[1] == 4


def test_what_is_pruned_stays_zero() -> None:
    model = mlp()
    masks = prune(model, methods.magnitude(0.4))
    pruner, optimizer = Pruner(model, methods.low_rank(steps=3, share=0.5)), sgd(model)
    for number in range(3):
        train(model, optimizer, number)
    assert pruner.finish() == masks
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


def test_what_makes_no_sense_is_refused() -> None:
    for share, ridge, said in ((0.0, 0.1, "share"), (1.1, 0.1, "share"), (0.5, -1.0, "ridge")):
        with pytest.raises(SecateurError, match=said):
            methods.low_rank(steps=0, share=share, ridge=ridge)
    model = mlp()
    keys = list(model.state_dict())
    with pytest.raises(SecateurError, match=r"0\.weight"):
        Pruner(model, methods.low_rank(steps=0, kernel=lambda _, w: torch.eye(3)))
    assert list(model.state_dict()) == keys
    with pytest.raises(SecateurError, match="length"):
        squared_exponential(3, length=0.0)
