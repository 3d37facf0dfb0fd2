"""Retraining after deployment: zeros stay, what was named moves, old examples are mixed in, both qualities are told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Masks, SecateurError, methods, prune
from secateur.programs import Rehearsal, retrain

Pair = tuple[Tensor, Tensor]


def _pruned() -> tuple[nn.Sequential, Masks]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))
    return net, prune(net, methods.magnitude(0.4))


def _data(seed: int, batches: int = 3, size: int = 8) -> list[Pair]:
    """Inputs that say in their first entry which example they are."""
    drawn = torch.Generator().manual_seed(seed)
    made = []
    for batch in range(batches):
        x = torch.randn(size, 6, generator=drawn)
        x[:, 0] = torch.arange(size) + batch * size + 1000 * seed
        made.append((x, torch.arange(size) % 4))
    return made


def _train(model: nn.Module, batches: Iterable[Pair]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x / 1000), y).backward()
            optimizer.step()


def _sum(name: str) -> Callable[[nn.Module], float]:
    def quality(model: nn.Module) -> float:
        return float(model.get_parameter(name).detach().sum())

    return quality


def test_zeros_stay_and_both_qualities_are_told_before_and_after() -> None:
    net, masks = _pruned()
    first = {name: float(p.detach().sum()) for name, p in net.named_parameters()}
    on: dict[str, Any] = {"on_old": _sum("0.weight"), "on_new": _sum("2.bias")}
    found = retrain(net, masks, train=_train, new=_data(1), **on)
    assert found.masks == masks and found.trained == masks.kept + 24
    assert found.old == (first["0.weight"], on["on_old"](net)) and found.old[0] != found.old[1]
    assert found.new == (first["2.bias"], on["on_new"](net)) and found.new[0] != found.new[1]
    for name, mask in masks.items():
        assert not bool(net.get_parameter(name)[~mask].any())


def test_only_what_is_named_moves() -> None:
    net, masks = _pruned()
    before = copy.deepcopy(net.state_dict())
    found = retrain(
        net, masks, train=_train, new=_data(1), on_old=_sum("0.bias"), on_new=_sum("0.bias"), trains=["2.*"]
    )
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"2.weight", "2.bias"} and found.trained == int(masks["2.weight"].sum()) + 4
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_pruned_weights_may_grow_again(share: float) -> None:
    net, masks = _pruned()
    cut = masks.numel - masks.kept
    on = _sum("0.bias")
    found = retrain(net, masks, train=_train, new=_data(1), on_old=on, on_new=on, reopened=share)
    assert found.masks.kept == masks.kept + int(share * cut + 0.5)
    assert all(bool(found.masks[name][mask].all()) for name, mask in masks.items())
    grown = {name: found.masks[name] & ~mask for name, mask in masks.items()}
    assert any(bool(net.get_parameter(name)[bits].any()) for name, bits in grown.items())
    assert not any(bool(net.get_parameter(name)[~mask].any()) for name, mask in found.masks.items())


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 2), (0.5, 8), (0.75, 24), (0.9, 72)])
def test_old_examples_are_so_much_of_each_batch_and_keep_their_labels(share: float, count: int) -> None:
    old, new = _data(2), _data(1)
    labels = {float(x[0]): int(y) for xs, ys in old for x, y in zip(xs, ys, strict=True)}
    mixed = Rehearsal(new, old, share, torch.Generator().manual_seed(0))
    first, second = list(mixed), list(mixed)
    assert len(mixed) == len(first) == 3
    for (x, y), (own, targets) in zip(first, new, strict=True):
        assert torch.equal(x[:8], own) and torch.equal(y[:8], targets) and len(x) == len(y) == 8 + count
        drawn = x[8:, 0].tolist()
        assert all(labels[each] == int(label) for each, label in zip(drawn, y[8:], strict=True))
        assert len(set(drawn)) == count or count > 24
    if 0 < count <= 24:
        assert any(not torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True)), "drawn anew each time"


def test_bad_input_is_refused_before_anything_is_changed() -> None:
    net, masks = _pruned()
    on = _sum("0.bias")
    good: dict[str, Any] = {"train": _train, "new": _data(1), "on_old": on, "on_new": on}
    before = copy.deepcopy(net.state_dict())
    for wrong, said in [
        ({"new": []}, "`new` must have at least one batch"),
        ({"rehearsal": 0.5}, "`old` has none"),
        ({"rehearsal": 1.0, "old": _data(2)}, r"`rehearsal` must be the share"),
        ({"reopened": 1.5}, "`reopened` must be a share"),
        ({"trains": ["3.*"]}, "`trains`: '3\\.\\*' is no parameter"),
    ]:
        with pytest.raises(SecateurError, match=said):
            retrain(net, masks, **{**good, **wrong})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    dense = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))
    with pytest.raises(SecateurError, match="is not zero where `masks` say so"):
        retrain(dense, masks, **good)
    with pytest.raises(SecateurError, match=r"0\.weight"):
        retrain(nn.Sequential(nn.Linear(5, 5)), masks, **good)
