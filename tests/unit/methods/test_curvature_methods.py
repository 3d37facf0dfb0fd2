"""MLPrune, C-OBS, Kron-OBS, WoodFisher, CHITA, inbound and Karnin: each against its own definition."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, Pruner, SecateurError, gather, methods, prunable, prune, scores, shrink
from secateur.axes import Method
from secateur.curvature import input_factor, output_factor, path_sensitivity, snapshots, sparse_regression
from secateur.measures import Observer
from secateur.repairs import LowRank

BATCH = (
    torch.randn(12, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    torch.arange(12) % 3,
)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)]
        return nn.Sequential(*layers).double()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def factors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    asked = [input_factor(), output_factor()]
    found = gather(model, [BATCH], asked, params=prunable(model), generator=seeded())
    return found["input_factor"], found["output_factor"]


def damped(matrix: Tensor, damping: float = 0.1) -> Tensor:
    return matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def pruned(method: Method) -> tuple[nn.Module, Masks]:
    model = net()
    return model, prune(model, method, [BATCH], generator=seeded())


@pytest.mark.filterwarnings("ignore::secateur.EmptyLayerWarning")
def test_mlprune_ranks_over_layers_and_adds_up_its_updates() -> None:
    dense = net()
    inputs, outputs = factors(dense)
    model, masks = pruned(methods.mlprune(0.6))
    costs, updated = {}, {}
    for name, p in prunable(dense).items():
        rows = p.detach().flatten(1)
        a, g = (torch.linalg.inv(damped(each[name])) for each in (inputs, outputs))
        costs[name] = (rows.square() / (2 * torch.outer(g.diagonal(), a.diagonal()))).reshape(p.shape)
        change = torch.zeros_like(rows)
        for i, j in (~masks[name].flatten(1)).nonzero().tolist():
            change -= rows[i, j] / (g[i, i] * a[j, j]) * torch.outer(g[:, i], a[:, j])
        updated[name] = ((rows + change) * masks[name].flatten(1)).reshape(p.shape)
    level = torch.cat([c.flatten() for c in costs.values()]).sort(descending=True).values[masks.kept - 1]
    for name, p in prunable(model).items():
        assert torch.equal(masks[name], costs[name] >= level)
        torch.testing.assert_close(p.detach(), updated[name])


def test_kron_obs_makes_up_for_rows_so_that_the_quadratic_is_at_its_least() -> None:
    dense = net()
    inputs, outputs = factors(dense)
    model, masks = pruned(methods.kron_obs(0.5))
    for name, p in prunable(dense).items():
        a, g = damped(inputs[name]), damped(outputs[name])
        gone = ~masks[name].flatten(1).any(1)
        change = (prunable(model)[name] - p).detach().flatten(1)
        torch.testing.assert_close(change[gone], -p.detach().flatten(1)[gone])
        if bool(gone.any()):
            # Stationary: the gradient of ½ δᵀ(G ⊗ A)δ vanishes on the rows that stay.
            slope = (g @ change @ a)[~gone]
            assert float(slope.abs().max()) < 1e-9 * float((g @ change @ a).abs().max() + 1)
    other = methods.kron_obs(0.5, made_up=False)
    assert other.name == "kron_obd" and other.repair is None
    kept = pruned(other)[0].get_parameter("0.weight")
    assert bool(((kept == 0) | (kept == dense[0].weight)).all())


@pytest.mark.parametrize("method", [methods.c_obs(0.5), methods.kron_obs(0.5), methods.kron_obs(0.5, made_up=False)])
def test_units_go_whole_and_through_shrink(method: Method) -> None:
    _, masks = pruned(method)
    flat = {name: mask.flatten(1) for name, mask in masks.items()}
    assert all(bool((bits.all(1) == bits.any(1)).all()) for bits in flat.values())
    assert sum(int(bits.any(1).sum()) for bits in flat.values()) == 7
    small = shrink(net(), method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",)).model
    modules = dict(small.named_modules())
    assert modules["0"].out_channels + modules["2"].out_channels == 6 and modules["5"].out_features == 3


def test_wood_fisher_takes_one_weight_out_as_the_whole_inverse_would() -> None:
    dense = net()
    count = sum(p.numel() for p in prunable(dense).values())
    method = methods.wood_fisher(1 - 1 / count, block=10_000, damping=1e-2)
    model, masks = pruned(method)
    name = next(name for name in masks if not bool(masks[name].all()))
    rows = gather(dense, [BATCH], [snapshots()], params=prunable(dense))["snapshots"]
    best = []
    for each, p in prunable(dense).items():
        g = rows[each].flatten(1)
        inverse = torch.linalg.inv(1e-2 * torch.eye(p.numel()).double() + g.T @ g / len(g))
        costs = p.detach().flatten().square() / (2 * inverse.diagonal())
        best.append((float(costs.min()), each, int(costs.argmin()), inverse))
    _, owner, q, inverse = min(best, key=lambda one: one[0])
    assert owner == name and not bool(masks[name].flatten()[q])
    w = dense.get_parameter(name).detach().flatten()
    want = w - w[q] / inverse[q, q] * inverse[:, q]
    torch.testing.assert_close(model.get_parameter(name).detach().flatten(), want)
    assert isinstance(method.repair, LowRank) and float(want[q].abs()) < 1e-12


def test_chita_solves_for_support_and_values_together() -> None:
    dense = net()
    rows = gather(dense, [BATCH], [snapshots()], params=prunable(dense))["snapshots"]
    x = torch.cat([rows[name].flatten(1) for name in rows], 1)
    w = torch.cat([p.detach().flatten() for p in prunable(dense).values()])
    ridge = len(x) * 1e-4

    def loss(v: Tensor) -> float:
        return 0.5 * float((x @ (v - w)).square().sum() + ridge * (v - w).square().sum())

    model, masks = pruned(methods.chita(0.3))
    assert masks.kept == round(0.3 * len(w))
    found = torch.cat([p.detach().flatten() for p in prunable(model).values()])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    slope = x.T @ (x @ (found - w)) + ridge * (found - w)
    assert float(slope[kept].abs().max()) < 1e-8 * float(slope.abs().max())  # the best values on this support
    largest = torch.zeros_like(w)
    order = w.abs().argsort(descending=True)[: masks.kept]
    largest[order] = w[order]
    assert loss(found) < loss(largest)  # magnitude, its values as they are
    inside = x[:, order]
    solved = largest.clone()
    missing = x @ (w - largest)
    eye = torch.eye(len(x)).double()
    solved[order] += inside.T @ torch.linalg.solve(inside @ inside.T + ridge * eye, missing)
    assert loss(found) <= loss(solved) * (1 + 1e-9)  # and magnitude, refitted
    whole = gather(dense, [BATCH], [sparse_regression(keep=1.0)], params=prunable(dense))["sparse_regression"]
    for name, p in prunable(dense).items():
        torch.testing.assert_close(whole[name], p.detach())


def test_inbound_keeps_kernels_whose_norm_varies_from_sample_to_sample() -> None:
    model, x = net(), BATCH[0]
    found = scores(model, methods.inbound(0.5), [BATCH])
    for name, layer, seen in (("0.weight", model[0], x), ("2.weight", model[2], model[:2](x).detach())):
        out, channels = layer.weight.shape[:2]
        for o in range(out):
            for c in range(channels):
                maps = F.conv2d(seen[:, c : c + 1], layer.weight[o : o + 1, c : c + 1].detach())
                want = maps.flatten(1).norm(dim=1).var(correction=0)
                torch.testing.assert_close(found[name][o * channels + c], want)
    masks = prune(model, methods.inbound(0.5), [BATCH])
    kernels = masks["2.weight"].flatten(2)
    assert bool((kernels.all(2) == kernels.any(2)).all()) and int(kernels.any(2).sum()) == 15


def test_karnin_adds_up_slope_times_step() -> None:
    model = net()
    params = prunable(model)
    observer = Observer(model, [path_sensitivity()], params=params)
    first = {name: p.detach().clone() for name, p in params.items()}
    total = {name: torch.zeros_like(p) for name, p in first.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()
        grads = {name: p.grad.detach().clone() for name, p in params.items() if p.grad is not None}
        observer.update(grads)
        before = {name: p.detach().clone() for name, p in params.items()}
        optimizer.step()
        for name, p in params.items():
            total[name] += grads[name] * (p.detach() - before[name])
    found = observer.compute({})["path_sensitivity"]
    for name, p in params.items():
        moved = p.detach() - first[name]
        torch.testing.assert_close(found[name], -total[name] * p.detach() / moved)
        # Training lowered the loss on its way: on the whole, weights that moved away from zero are worth something.
        assert float(found[name][p.detach().abs() > first[name].abs()].sum()) > 0


def test_karnin_belongs_to_training_and_says_so() -> None:
    model, batch = net(), [BATCH]
    with pytest.raises(SecateurError, match="karnin acts while the network trains"):
        prune(model, methods.karnin(0.4, until=5), batch)
    assert methods.karnin(0.4, until=5).online
    pruner = Pruner(model, methods.karnin(0.4, until=1), batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()
    with pytest.raises(SecateurError, match="needs no batches"):
        optimizer.step()
    pruner.release()


def test_bad_options_and_evidence_are_refused_and_nothing_changes() -> None:
    for made, said in (
        (lambda: methods.wood_fisher(0.5, damping=0.0), "`damping` positive"),
        (lambda: methods.chita(0.5, ridge=0.0), "`ridge` must be positive"),
        (lambda: methods.mlprune(0.5, draws=0), "`draws` must be at least 1"),
    ):
        with pytest.raises(SecateurError, match=said):
            made()
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SecateurError, match="has seen one sample, which does not vary"):
        prune(model, methods.inbound(0.5), [BATCH[0][:1]])
    with pytest.raises(SecateurError, match="has seen one input, which does not vary"):
        prune(nn.Linear(3, 2), methods.reduce_and_reuse(0.5), [torch.ones(1, 3)])
    bad = (BATCH[0].clone(), BATCH[1])
    bad[0][0, 0, 0, 0] = torch.nan
    for method in (methods.mlprune(0.5), methods.wood_fisher(0.5), methods.chita(0.5), methods.inbound(0.5)):
        with pytest.raises(SecateurError, match=r"finite|nan|NaN"):
            prune(model, method, [bad])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert methods.mlprune(0.5) == methods.mlprune(0.5) != replace(methods.mlprune(0.5), name="other")
