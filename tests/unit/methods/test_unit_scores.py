"""Channel methods that rank by gates, by greedy norms or by chance: what only they promise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import coupling_nets
from secateur import Masks, Pruner, coupling, methods, prunable, prune, schedule, scores, shrink, structure
from secateur.axes import Method

BATCH = (
    torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0)),
    torch.arange(6) % 3,
)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 3),
        )  # fmt: skip


def rows(masks: Masks, name: str) -> list[int]:
    flat = masks[name].flatten(1)
    assert bool((flat.all(1) == flat.any(1)).all())
    return flat.any(1).nonzero().flatten().tolist()


@pytest.mark.filterwarnings("ignore::secateur.TiedScoresWarning")  # units that a few images leave dead alike
@pytest.mark.parametrize(
    "method",
    [
        methods.taylor(0.5),
        methods.taylor_weights(0.5, gates=True),
        methods.group_fisher(0.5),
        methods.skeletonization(0.5),
        methods.l1_filters(0.5, greedy=True),
        methods.random(0.5, structure=structure.filters()),
    ],
    ids=lambda method: method.name,
)
def test_half_of_the_units_go_through_shrink(method: Method) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    small = shrink(model, method, BATCH[0], batches=[BATCH], draws=0, modes=("eval",)).model
    assert small(BATCH[0]).shape == (6, 3)
    assert small[0].out_channels + small[3].out_channels + small[7].out_features == 15
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_taylor_normalises_layer_by_layer_so_that_the_size_of_the_loss_plays_no_part() -> None:
    method = methods.taylor(0.5, structure=structure.channels(coupling.trace(net(), BATCH[0])))
    found = scores(net(), method, [BATCH])
    doubled = scores(net(), method, [BATCH], loss=lambda output, target: 2 * F.cross_entropy(output, target))
    for name in found:
        torch.testing.assert_close(doubled[name], 2 * found[name])
    masks = prune(net(), method, [BATCH])
    names = ("0.weight", "3.weight", "7.weight")
    scaled = {name: found[name] / found[name].square().sum().sqrt() for name in names}
    fifteenth = torch.cat([scaled[name] for name in names]).sort(descending=True).values[14]
    assert all(rows(masks, name) == (scaled[name] >= fifteenth).nonzero().flatten().tolist() for name in names)
    raw = prune(net(), methods.taylor(0.5, normalise=False, structure=method.structure), [BATCH])
    assert raw != masks


def test_weights_of_taylor_2019_are_squares_of_g_times_w_of_each_batch() -> None:
    model = net().eval()
    params = prunable(model)
    wanted = {name: torch.zeros_like(p) for name, p in params.items()}
    parts = [(BATCH[0][:3], BATCH[1][:3]), (BATCH[0][3:], BATCH[1][3:])]
    for x, y in parts:
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(params.values()))
        for (name, p), grad in zip(params.items(), grads, strict=True):
            wanted[name] += (p.detach() * grad).square()
    for name, value in scores(model.train(), methods.taylor_weights(0.5), parts).items():
        torch.testing.assert_close(value, wanted[name])


def test_skeletonization_has_a_sign_and_lets_harm_go_first() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, -3.0, 0.0], [0.0, 3.0, 0.0]]))  # unit 1 speaks for the wrong class
    batch = (torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    found = scores(model, methods.skeletonization(0.5), [batch])["0.weight"]
    assert float(found[0]) > 0 > float(found[1]) and float(found[2]) == 0
    p = model(batch[0]).softmax(1)[0]
    torch.testing.assert_close(found[0], (1 - p[0]).detach().double(), check_dtype=False)
    assert rows(prune(model, methods.skeletonization(1 / 3), [batch], only="0.weight"), "0.weight") == [0]


def test_greedy_norms_leave_out_what_is_gone_and_begin_like_the_independent_ones() -> None:
    model = net()
    by_hand, gone = {}, torch.zeros(3, dtype=torch.bool)
    for name, layer in (("0.weight", model[0]), ("3.weight", model[3]), ("7.weight", model[7])):
        weight = layer.weight.detach().double().abs()
        columns = gone.repeat_interleave(4) if name == "7.weight" else gone
        norms = (weight * (~columns).reshape(1, -1, *[1] * (weight.dim() - 2))).flatten(1).sum(1)
        by_hand[name] = norms
        stays = norms.argsort(descending=True)[: len(norms) // 2]
        gone = torch.ones(len(norms), dtype=torch.bool).index_fill(0, stays, False)
    greedy, plain = methods.l1_filters(0.5, greedy=True), methods.l1_filters(0.5)
    found = scores(model, greedy, [BATCH])
    for name, norms in by_hand.items():
        torch.testing.assert_close(found[name], norms)
    units = structure.channels(coupling.trace(model, BATCH[0]))
    one = prune(copy.deepcopy(model), methods.l1_filters(0.5, greedy=True, structure=units), [BATCH])
    two = prune(copy.deepcopy(model), methods.l1_filters(0.5, structure=units))
    assert rows(one, "0.weight") == rows(two, "0.weight")
    assert rows(one, "7.weight") == sorted(by_hand["7.weight"].argsort(descending=True)[:5].tolist())
    assert greedy != plain and greedy == methods.l1_filters(0.5, greedy=True)


def test_greedy_norms_of_a_residual_stream_count_all_that_make_it() -> None:
    model, x = coupling_nets.residual()
    masks = prune(model, methods.l1_filters(0.5, greedy=True, structure=structure.channels(coupling.trace(model, *x))),
                  [(x[0], torch.zeros(len(x[0])))])  # fmt: skip
    assert torch.equal(masks["0.weight"].flatten(1).any(1), masks["1.two.weight"].flatten(1).any(1))


def test_a_random_unit_has_one_draw_whatever_its_size() -> None:
    model = nn.Sequential(nn.Linear(1000, 40), nn.Linear(40, 40))
    kept = []
    for seed in range(20):
        drawn = torch.Generator().manual_seed(seed)
        method = methods.random(0.5, structure=structure.filters())
        masks = prune(copy.deepcopy(model), method, generator=drawn)
        kept.append(len(rows(masks, "0.weight")))
        assert len(rows(masks, "0.weight")) + len(rows(masks, "1.weight")) == 40
    assert 17 < sum(kept) / 20 < 23  # a sum over 1000 draws would have kept all 40 of the first layer, or none


def test_units_go_a_few_at_a_time_while_the_network_trains() -> None:
    model = net()
    units = structure.channels(coupling.trace(model, BATCH[0]))
    gradual = schedule.linear(0.5, rounds=5, begin=2, every=2)
    method = methods.group_fisher(0.5, schedule=gradual, structure=units)
    pruner = Pruner(model, method, [BATCH])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    left = []
    for _ in range(11):
        optimizer.zero_grad()
        F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()
        optimizer.step()
        left.append(sum(len(rows(pruner.masks, name)) for name in ("0.weight", "3.weight", "7.weight")))
    masks = pruner.finish()
    assert left[0] == 30 and left[-1] == 15 and left == sorted(left, reverse=True) and len(set(left)) > 4
    assert shrink(model, masks, BATCH[0], draws=0, modes=("eval",)).certificate.after.params < 1000
