"""OBC and L-OBS against brute force and against least squares on what stays."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from secateur import SecateurError, methods, prune, schedule, scope, scores
from secateur.repairs import damped, error_of, least_squares
from transformer_cases import Conv1D


def _drawn(inputs: int, samples: int = 60, seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=drawn, dtype=torch.float64)
    return torch.randn(samples, inputs, generator=drawn, dtype=torch.float64) @ mix


def _layer(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs).double()


def _plain(weight: Tensor, gram: Tensor, cut: int) -> Tensor:
    """The mask that OBC's own steps leave: every row to its end, then the `cut` lowest levels of all."""
    removals: list[tuple[float, int, int, int]] = []
    for row, start in enumerate(weight):
        w, inverse, alive, level = start.clone(), torch.linalg.inv(gram), set(range(len(start))), 0.0
        for step in range(len(start)):
            costs = {p: float(w[p] ** 2 / inverse[p, p] / 2) for p in alive}
            p = min(costs, key=costs.__getitem__)
            level = max(level, costs[p])
            removals.append((level, row, step, p))
            w = w - w[p] / inverse[p, p] * inverse[:, p]
            alive.remove(p)
            rest = sorted(alive)
            inverse = torch.zeros_like(inverse)
            if rest:
                inverse[torch.tensor(rest)[:, None], torch.tensor(rest)] = torch.linalg.inv(gram[rest][:, rest])
    keep = torch.ones_like(weight, dtype=torch.bool)
    for _, row, _, p in sorted(removals, key=lambda one: (one[0], one[1], one[2]))[:cut]:
        keep[row, p] = False
    return keep


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
def test_masks_are_those_of_the_plain_algorithm_and_weights_the_least_squares(density: float) -> None:
    layer, x = _layer(10, 40), _drawn(10)
    before = layer.weight.detach().clone()
    gram = damped(x.T @ x, 0.01)[0]
    mask = prune(layer, methods.obc(density), [x])["weight"]
    assert torch.equal(mask, _plain(before, gram, 400 - int(density * 400 + 0.5)))
    torch.testing.assert_close(layer.weight.detach(), least_squares(before, mask, gram))


def test_one_removal_is_the_best_of_all() -> None:
    layer, x = _layer(7, 3), _drawn(7)
    before, gram = layer.weight.detach().clone(), damped(x.T @ x, 0.0)[0]
    costs = {}
    for place in range(21):
        keep = torch.ones(21, dtype=torch.bool)
        keep[place] = False
        fitted = least_squares(before, keep.reshape(3, 7), gram)
        costs[place] = float(error_of(fitted - before, gram).sum())
    mask = prune(layer, methods.obc(20 / 21, damping=0.0), [x])["weight"]
    assert (~mask).flatten().nonzero().tolist() == [[min(costs, key=costs.__getitem__)]]
    found = float(error_of(layer.weight.detach() - before, gram).sum())
    assert found == pytest.approx(min(costs.values()), rel=1e-9)


def test_greedy_comes_near_the_best_set_of_a_row() -> None:
    layer, x = _layer(8, 1, 3), _drawn(8, seed=3)
    before, gram = layer.weight.detach().clone(), damped(x.T @ x, 0.0)[0]
    sets = []
    for goes in combinations(range(8), 4):
        keep = torch.ones(1, 8, dtype=torch.bool)
        keep[0, list(goes)] = False
        sets.append(float(error_of(least_squares(before, keep, gram) - before, gram).sum()))
    prune(layer, methods.obc(0.5, damping=0.0), [x])
    found = float(error_of(layer.weight.detach() - before, gram).sum())
    assert min(sets) - 1e-9 <= found <= sorted(sets)[6]


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_count_over_all_their_rows(groups: int) -> None:
    torch.manual_seed(4)
    layer, x = nn.Conv2d(4, 6, 3, groups=groups).double(), torch.randn(4, 4, 6, 6).double()
    before = layer.weight.detach().flatten(1).clone()
    patches = torch.nn.functional.unfold(x, 3).movedim(1, 0).flatten(1).reshape(groups, 36 // groups, -1)
    mask = prune(layer, methods.obc(0.4), [x])["weight"].flatten(1)
    assert int(mask.sum()) == int(0.4 * mask.numel() + 0.5)
    for number, seen in enumerate(patches):
        part = slice(number * 6 // groups, (number + 1) * 6 // groups)
        gram = damped(seen @ seen.T, 0.01)[0]
        own = mask[part]
        assert torch.equal(own, _plain(before[part], gram, int((~own).sum())))
        torch.testing.assert_close(layer.weight.detach().flatten(1)[part], least_squares(before[part], own, gram))


def test_transposed_layers_and_patterns() -> None:
    plain, turned, x = _layer(8, 8, 5), Conv1D(8, 8).double(), _drawn(8)
    with torch.no_grad():
        turned.weight.copy_(plain.weight.T)
    method = methods.obc(0.5, pattern=(2, 4))
    keep = prune(plain, method, [x])["weight"]
    assert bool((keep.reshape(8, 2, 4).sum(2) == 2).all())
    assert torch.equal(prune(turned, method, [x])["weight"], keep.T)
    torch.testing.assert_close(turned.weight, plain.weight.T)


def test_layers_compete_by_the_rise_of_their_errors() -> None:
    torch.manual_seed(6)
    net, x = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5)).double(), _drawn(6)
    method = methods.obc(0.5, scope=scope.everywhere())
    found = scores(net, method, [x])
    masks = prune(net, method, [x])
    kept = torch.cat([found[name][masks[name]] for name in masks])
    cut = torch.cat([found[name][~masks[name]] for name in masks])
    assert masks.kept == 22 and float(kept.min()) >= float(cut.max())


# --- L-OBS --------------------------------------------------------------------------------------------------------


def test_l_obs_ranks_by_what_one_removal_costs() -> None:
    layer, x = _layer(7, 4, 7), _drawn(7)
    inverse = torch.linalg.inv(damped(x.T @ x, 1e-6)[0])
    wanted = layer.weight.detach().square() / inverse.diagonal() / 2
    torch.testing.assert_close(scores(layer, methods.l_obs(0.5), [x])["weight"], wanted)
    wider = scores(layer, methods.l_obs(0.5), [3 * x])["weight"]
    torch.testing.assert_close(wider, 9 * wanted)  # inputs scaled by c scale it by c²


def test_deflated_is_below_released_and_both_agree_on_one_removal() -> None:
    x, gram = _drawn(20), _drawn(20).T @ _drawn(20)
    errors = {}
    for released in (False, True):
        for density in (79 / 80, 0.5):
            layer = _layer(20, 4, 8)
            before = layer.weight.detach().clone()
            masks = prune(layer, methods.l_obs(density, released=released, damping=0.0), [x])
            errors[released, density] = float(error_of(layer.weight.detach() - before, gram).sum())
            alone = float(error_of(before * masks["weight"] - before, gram).sum())
            assert released or errors[released, density] <= alone
    assert errors[False, 79 / 80] == pytest.approx(errors[True, 79 / 80], rel=1e-9)
    assert errors[False, 0.5] < errors[True, 0.5]


def test_l_obs_is_below_magnitude_at_the_same_count() -> None:
    for seed in range(4):
        layer, x = _layer(20, 6, seed), _drawn(20, seed=seed)
        before, gram = layer.weight.detach().clone(), x.T @ x
        largest = before.abs() > before.abs().flatten().kthvalue(60).values
        prune(layer, methods.l_obs(0.5), [x])
        found = float(error_of(layer.weight.detach() - before, gram).sum())
        assert found < float(error_of(before * largest - before, gram).sum())


def test_in_rounds_each_ranks_what_the_one_before_left() -> None:
    layer, x = _layer(12, 5, 9), _drawn(12)
    once = _layer(12, 5, 9)
    gram, before = x.T @ x, layer.weight.detach().clone()
    masks = prune(layer, methods.l_obs(0.3, schedule=schedule.exponential(0.3, rounds=12)), [x])
    prune(once, methods.l_obs(0.3), [x])
    assert masks.kept == 18
    errors = [float(error_of(each.weight.detach() - before, gram).sum()) for each in (layer, once)]
    assert errors[0] < errors[1]
    with pytest.raises(ValueError, match=r"`schedule` ends at density 0\.4"):
        methods.l_obs(0.3, schedule=schedule.once(0.4))


def test_negative_damping_is_refused() -> None:
    with pytest.raises(SecateurError, match="`damping` must be at least 0, got -1"):
        methods.obc(0.5, damping=-1)
