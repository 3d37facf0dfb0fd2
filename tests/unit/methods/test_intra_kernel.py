"""IKR: exactly n positions of every kernel, by at most P patterns a layer."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, Pruner, SecateurError, UnfitModelError, methods, prune, scope
from secateur.selection import few_patterns


def _net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 1), nn.ReLU(), nn.Conv2d(10, 8, 5), nn.Flatten(),
            nn.Linear(8, 4),
        )  # fmt: skip


def _kernels(mask: Tensor) -> Tensor:
    return mask.flatten(0, 1).flatten(1)


def _distinct(mask: Tensor) -> int:
    return len({tuple(row) for row in _kernels(mask).tolist()})


@pytest.mark.parametrize(("density", "small", "large"), [(4 / 9, 4, 11), (1 / 9, 1, 3), (0.01, 1, 1), (1.0, 9, 25)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_as_many_of_every_kernel_by_few_patterns(density: float, small: int, large: int, count: int) -> None:
    masks = prune(_net(), methods.intra_kernel(density, patterns=count))
    for name, n in (("0.weight", small), ("4.weight", large)):
        assert set(_kernels(masks[name]).sum(1).tolist()) == {n}
        assert _distinct(masks[name]) <= count
    assert masks["2.weight"].all() and masks["6.weight"].all()


def test_with_all_patterns_each_kernel_keeps_its_best_and_at_least_its_share_of_energy() -> None:
    net = _net(3)
    dense = {name: p.detach().clone() for name, p in net.named_parameters()}
    masks = prune(net, methods.intra_kernel(4 / 9, patterns=10**6))
    for name, n in (("0.weight", 4), ("4.weight", 11)):
        size = _kernels(dense[name]).abs()
        best = torch.zeros_like(size, dtype=torch.bool).scatter_(1, size.topk(n, dim=1).indices, True)
        assert torch.equal(_kernels(masks[name]), best)
        energy = dense[name].square()
        assert float(energy[masks[name]].sum()) >= n / size.shape[1] * float(energy.sum())


def test_the_dictionary_and_the_choice_are_those_of_all_patterns_tried_one_by_one() -> None:
    scores = torch.rand(60, 6, generator=torch.Generator().manual_seed(5)).double()
    every = [list(chosen) for chosen in itertools.combinations(range(6), 3)]

    def best(row: Tensor, among: list[list[int]]) -> list[int]:
        return max(among, key=lambda chosen: float(row[chosen].sum()))

    own = [tuple(best(row, every)) for row in scores]
    often = [list(pattern) for pattern, _ in Counter(own).most_common(5)]  # ties: in the order of first use
    expected = torch.zeros(60, 6, dtype=torch.bool)
    for index, row in enumerate(scores):
        expected[index, best(row, often)] = True
    assert torch.equal(few_patterns(scores, 3, 5), expected)


def test_equal_scores_go_to_the_lower_positions() -> None:
    bits = few_patterns(torch.ones(4, 9), 4, 2)
    assert bits.tolist() == [[True] * 4 + [False] * 5] * 4


@pytest.mark.parametrize("size", [33, 70])
def test_patterns_of_many_positions_are_told_apart(size: int) -> None:
    scores = torch.zeros(3, size)
    scores[0, 0], scores[1, -1], scores[2, -1] = 1, 1, 1
    bits = few_patterns(scores, 1, 2)
    assert bits.nonzero().tolist() == [[0, 0], [1, size - 1], [2, size - 1]]
    assert few_patterns(scores, 1, 1).nonzero().tolist() == [[0, size - 1], [1, size - 1], [2, size - 1]]


def test_rounds_go_on_within_patterns() -> None:
    net = _net(1)
    earlier: Masks | None = None
    for density in (7 / 9, 5 / 9, 3 / 9, 1 / 9):
        with torch.no_grad():  # as if it had trained in between
            for p in net.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(7)) * 0.05)
        masks = prune(net, methods.intra_kernel(density, patterns=4), masks=earlier)
        kernels = _kernels(masks["0.weight"])
        assert set(kernels.sum(1).tolist()) == {round(density * 9)} and _distinct(masks["0.weight"]) <= 4
        if earlier is not None:
            assert not bool((masks["0.weight"] & ~earlier["0.weight"]).any())
        earlier = masks


def test_gradually_under_a_pruner() -> None:
    net = _net(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    inputs, targets = torch.randn(16, 3, 7, 7), torch.arange(16) % 4
    pruner = Pruner(net, methods.intra_kernel(2 / 9, patterns=3, rounds=4, begin=2, every=2))
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    masks = pruner.finish()
    assert set(_kernels(masks["0.weight"]).sum(1).tolist()) == {2} and _distinct(masks["0.weight"]) <= 3


def test_what_masks_cut_otherwise_before_stays_cut() -> None:
    net = _net()
    names = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    drawn = torch.Generator().manual_seed(0)
    before = Masks({name: torch.rand(p.shape, generator=drawn) < 0.6 for name, p in names.items()})
    masks = prune(net, methods.intra_kernel(4 / 9, patterns=4), masks=before)
    assert not any(bool((masks[name] & ~before[name]).any()) for name in masks)
    assert int(_kernels(masks["0.weight"]).sum(1).max()) <= 4


@pytest.mark.parametrize("kind", ["transposed", "depthwise", "1d", "float64", "half"])
def test_other_layers_and_types(kind: str) -> None:
    layer: nn.Module
    if kind == "transposed":
        layer = nn.ConvTranspose2d(4, 6, 3)
    elif kind == "depthwise":
        layer = nn.Conv2d(8, 8, 3, groups=8)
    elif kind == "1d":
        layer = nn.Conv1d(5, 7, 9)
    else:
        layer = nn.Conv2d(5, 7, 3).to(torch.float64 if kind == "float64" else torch.bfloat16)
    masks = prune(nn.Sequential(layer), methods.intra_kernel(1 / 3, patterns=2))
    assert set(_kernels(masks["0.weight"]).sum(1).tolist()) == {3} and _distinct(masks["0.weight"]) <= 2


def test_networks_without_kernels_and_wrong_numbers_are_refused_unchanged() -> None:
    flat = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = [p.clone() for p in flat.parameters()]
    with pytest.raises(UnfitModelError, match=r"0\.weight"):
        prune(flat, methods.intra_kernel())
    assert all(torch.equal(old, new) for old, new in zip(before, flat.parameters(), strict=True))
    with pytest.raises(SecateurError, match="`count` must be at least 1"):
        methods.intra_kernel(patterns=0)
    with pytest.raises(SecateurError, match="`patterns` must be at least 1"):
        few_patterns(torch.ones(2, 3), 1, 0)
    with pytest.raises(SecateurError, match="density"):
        methods.intra_kernel(0.0)
    with pytest.raises(SecateurError, match="`rounds` must be at least 1"):
        methods.intra_kernel(rounds=0)
    with pytest.raises(SecateurError, match="NaN"):
        few_patterns(torch.tensor([[float("nan"), 1.0]]), 1, 1, name="w")


def test_the_scope_takes_other_scores() -> None:
    from secateur import method, schedule, structure

    def score(weight: Tensor) -> Tensor:
        return -weight.abs()

    smallest = method(
        "s", score, structure=structure.weights(), scope=scope.patterns(50), schedule=schedule.once(1 / 9)
    )
    net = _net()
    dense = net[0].weight.detach().clone()  # type: ignore[union-attr]
    masks = prune(net, smallest)
    picked = _kernels(dense).abs().min(1).values
    assert torch.allclose(_kernels(dense * masks["0.weight"]).abs().sum(1), picked)
