"""Methods that rank filters and neurons, each against its own definition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, SecateurError, TiedScoresWarning, gather, methods, prunable, prune, scores
from secateur.axes import Method
from secateur.propagation import importance

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)]
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch() -> Batch:
    return torch.randn(10, 2, 6, 6, dtype=torch.float64), torch.arange(10) % 4


def _rows(masks: Masks, name: str) -> list[int]:
    """Which units stay; each whole or not at all."""
    flat = masks[name].flatten(1)
    assert bool((flat.all(1) == flat.any(1)).all())
    return flat.any(1).nonzero().flatten().tolist()


def _best(values: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(values)), key=lambda i: -values[i])[:count])


def test_l1_filters_keeps_the_largest_norms_of_each_layer(net: nn.Sequential) -> None:
    norms = {name: p.detach().abs().flatten(1).sum(1).tolist() for name, p in prunable(net).items()}
    masks = prune(net, methods.l1_filters(0.5))
    for name, values in norms.items():
        assert _rows(masks, name) == _best(values, len(values) // 2)


def test_class_blind_ranks_means_over_the_network_and_empties_no_layer(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[5].weight.mul_(1e-3)
    means = {name: p.detach().abs().flatten(1).mean(1) for name, p in prunable(net).items()}
    masks = prune(net, methods.class_blind(0.5))
    assert len(_rows(masks, "5.weight")) == 1  # all others of that layer are smaller than any elsewhere
    assert len(masks) == 3 and sum(len(_rows(masks, name)) for name in masks) == 9
    kept = torch.cat([means[name][_rows(masks, name)] for name in ("0.weight", "2.weight")])
    cut = torch.cat([means[name][~masks[name].flatten(1).any(1)] for name in ("0.weight", "2.weight")])
    assert float(kept.min()) > float(cut.max())


def test_fpgm_sums_distances_and_knows_no_norm(net: nn.Sequential) -> None:
    found = scores(net, methods.fpgm(0.5))
    for name, parameter in prunable(net).items():
        flat = parameter.detach().flatten(1)
        wanted = [sum(float((a - b).square().sum() ** 0.5) for b in flat) for a in flat]
        torch.testing.assert_close(found[name], torch.tensor(wanted, dtype=torch.float64))
    before = prune(net, methods.fpgm(0.5), only=["0.weight"])
    torch.manual_seed(3)
    moved = nn.Sequential(nn.Conv2d(2, 8, 3)).double()
    with torch.no_grad():
        moved[0].weight.add_(torch.randn(1, 2, 3, 3, dtype=torch.float64))
    assert _rows(prune(moved, methods.fpgm(0.5)), "0.weight") == _rows(before, "0.weight")


def test_fpgm_drops_one_of_two_equal_filters_and_looks_at_filters_however_they_are_stored() -> None:
    layer = nn.ConvTranspose2d(3, 3, 2).double()
    with torch.no_grad():
        layer.weight[:, 0] = layer.weight[:, 1]
        layer.weight[:, 2] += 5
    with pytest.warns(TiedScoresWarning):
        masks = prune(nn.Sequential(layer), methods.fpgm(2 / 3))
    assert masks["0.weight"].any(0).flatten(1).any(1).tolist() in ([True, False, True], [False, True, True])


def test_matrix_similarity_leaves_no_two_filters_alike() -> None:
    layer = nn.Linear(6, 5, bias=False).double()
    with torch.no_grad():
        layer.weight[1] = -3 * layer.weight[0]
        layer.weight[4] = layer.weight[2] + 0.01 * layer.weight[3]
    model = nn.Sequential(layer)
    dense = layer.weight.detach().clone()
    masks = prune(model, methods.matrix_similarity(similarity=0.95))
    stays = _rows(masks, "0.weight")
    assert len(stays) == 3 and 3 in stays
    cosine = {pair: F.cosine_similarity(*(dense[i] for i in pair), dim=0) for pair in itertools.combinations(stays, 2)}
    assert all(float(value.abs()) <= 0.95 for value in cosine.values())
    alone = nn.Sequential(nn.Linear(4, 4, bias=False))
    nn.init.eye_(alone[0].weight)
    assert prune(alone, methods.matrix_similarity(similarity=0.01)).density == 1  # orthogonal: nothing is alike
    with pytest.raises(SecateurError, match=r"`similarity` must be in \(0, 1\), got 1"):
        methods.matrix_similarity(similarity=1.0)


def test_apoz_counts_zeros_behind_the_relu(net: nn.Sequential, batch: Batch) -> None:
    with torch.no_grad():
        first = net[1](net[0](batch[0]))
    zeros = (first == 0).double().mean((0, 2, 3)).tolist()
    masks = prune(net, methods.apoz(0.5), [batch])
    assert _rows(masks, "0.weight") == _best([-share for share in zeros], 4)


def test_structured_snip_is_the_gradient_of_a_gate_on_each_unit(net: nn.Sequential, batch: Batch) -> None:
    gates = [torch.ones(8, 1, 1).double().requires_grad_(), torch.ones(6, 1, 1).double().requires_grad_()]
    biases = [net[0].bias.reshape(-1, 1, 1), net[2].bias.reshape(-1, 1, 1)]
    h = F.relu((net[0](batch[0]) - biases[0]) * gates[0] + biases[0])
    h = F.relu((net[2](h) - biases[1]) * gates[1] + biases[1])
    grads = torch.autograd.grad(F.cross_entropy(net[5](h.flatten(1)), batch[1]), gates)
    one = methods.structured_snip(0.5, iterative=False)
    found = gather(net, [batch], list(one.measures), params=prunable(net))
    assert one.score is not None
    for name, grad in zip(("0.weight", "2.weight"), grads, strict=True):
        unit = one.structure.scores(name, one.score(found, name))
        torch.testing.assert_close(unit, grad.flatten().abs())
    masks = prune(net, one, [batch], only=["0.weight", "2.weight"])
    every = torch.cat([grad.flatten().abs() for grad in grads])
    assert len(_rows(masks, "0.weight")) + len(_rows(masks, "2.weight")) == 7
    assert _rows(masks, "0.weight") == [i for i in _best(every.tolist(), 7) if i < 8]


def test_structured_snip_goes_down_in_steps_that_are_nested(net: nn.Sequential, batch: Batch) -> None:
    masks = prune(net, methods.structured_snip(0.25), [batch])
    assert sum(len(_rows(masks, name)) for name in masks) == round(0.25 * 18 + 1e-9)
    assert methods.structured_snip(0.25).schedule.densities[-1] == 0.25
    assert len(methods.structured_snip(0.25).schedule.densities) > 3


def test_nisp_keeps_what_the_sweep_said(net: nn.Sequential, batch: Batch) -> None:
    measure = importance(keep=0.5)
    found = gather(net, [batch], [measure], params=prunable(net))["importance"]
    masks = prune(net, methods.nisp(0.5), [batch], only=["0.weight", "2.weight"])
    assert _rows(masks, "2.weight") == _best(found["2.weight"].tolist(), 3)
    assert _rows(masks, "0.weight") == _best(found["0.weight"].tolist(), 4)


@pytest.mark.parametrize("method", [methods.l1_filters(0.5), methods.fpgm(0.5), methods.class_blind(0.5)])
def test_units_stay_or_go_whole(net: nn.Sequential, method: Method) -> None:
    masks = prune(net, method)
    assert all(_rows(masks, name) for name in masks)


def test_filters_that_are_not_numbers_are_named() -> None:
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight[1, 1] = float("nan")
    with pytest.raises(SecateurError, match="weight"):
        prune(nn.Sequential(layer), methods.matrix_similarity())
