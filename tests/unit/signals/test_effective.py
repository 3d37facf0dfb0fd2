"""Effective weights by brute force over paths, and budgets of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, method, methods, prune, schedule, scope, structure
from secateur._base.errors import MaskError, SecateurError, UnfitModelError
from secateur.signals import effective


def net(*sizes: int) -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def drawn(model: nn.Module, density: float, seed: int) -> Masks:
    g = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(p.shape, generator=g) < density for n, p in model.named_parameters() if p.dim() > 1})


def by_hand(masks: Masks) -> dict[str, Tensor]:
    """Both ends of a weight of a chain: reached from an input, and leading to an output."""
    bits = list(masks.values())
    reached, leads = [torch.ones(bits[0].shape[1]).bool()], [torch.ones(bits[-1].shape[0]).bool()]
    for mask in bits:
        reached.append((mask & reached[-1]).any(1))
    for mask in reversed(bits):
        leads.append((mask & leads[-1][:, None]).any(0))
    leads.reverse()
    return {n: m & reached[k] & leads[k + 1][:, None] for k, (n, m) in enumerate(masks.items())}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_a_chain_by_hand(seed: int, activation: type[nn.Module]) -> None:
    model = net(9, 12, 7, 11, 4)
    for k in (1, 3, 5):
        model[k] = activation()
    masks = drawn(model, 0.12, seed)
    found = effective(model, masks, torch.zeros(2, 9))
    assert all(torch.equal(found[name], bits) for name, bits in by_hand(masks).items())
    assert found.kept < masks.kept and effective(model, found, torch.zeros(2, 9)) == found


def test_a_hundred_layers_neither_overflow_nor_vanish() -> None:
    model = net(*[30] * 101)
    masks = drawn(model, 0.08, 0)
    assert dict(effective(model, masks, torch.zeros(1, 30))).keys() == masks.keys()
    found = effective(model, masks, torch.zeros(1, 30))
    assert found.kept > 0 and all(torch.equal(found[name], bits) for name, bits in by_hand(masks).items())


def test_weights_that_only_meet_padding_are_not_effective() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2, 2))
    full = Masks({"0.weight": torch.ones(2, 1, 3, 3).bool(), "2.weight": torch.ones(2, 2).bool()})
    found = effective(model, full, torch.zeros(1, 1, 1, 1))
    assert found["0.weight"].flatten(1).sum(1).tolist() == [1, 1] and bool(found["0.weight"][:, 0, 1, 1].all())


def test_every_place_of_a_pooling_window_counts() -> None:
    # Each output position of the convolution is one input pixel times the one weight kept of its filter.
    model = nn.Sequential(nn.Conv2d(1, 1, 2, stride=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 1))
    full = Masks({"0.weight": torch.ones(1, 1, 2, 2).bool(), "3.weight": torch.ones(1, 1).bool()})
    assert effective(model, full, torch.zeros(1, 1, 4, 4)) == full


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.two(torch.relu(self.one(x))))


def test_skips_are_paths() -> None:
    model = Residual()
    nothing = torch.zeros(4, 4).bool()
    masks = Masks({"one.weight": ~nothing, "two.weight": nothing, "head.weight": torch.ones(2, 4).bool()})
    assert [layer.kept for layer in effective(model, masks, torch.zeros(1, 4)).layers()] == [0, 0, 8]


def test_queries_and_keys_are_on_paths() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    full = Masks({n: torch.ones_like(p).bool() for n, p in model.named_parameters() if p.dim() > 1})
    assert effective(model, full, torch.zeros(1, 5, 8)) == full
    cut = Masks({**full, "self_attn.out_proj.weight": torch.zeros(8, 8).bool()})
    assert [x.kept for x in effective(model, cut, torch.zeros(1, 5, 8)).layers()][:2] == [0, 0]


def test_the_model_is_only_read_and_other_masks_are_refused() -> None:
    model = net(5, 6, 3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    effective(model, drawn(model, 0.5, 1), torch.zeros(1, 5))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(MaskError):
        effective(model, Masks({"9.weight": torch.ones(2, 2).bool()}), torch.zeros(1, 5))


BATCH = (torch.randn(16, 20, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 5)


@pytest.mark.parametrize("density", [0.01, 0.03, 0.2, 0.7])
@pytest.mark.parametrize(
    "made",
    [methods.snip, methods.random, methods.magnitude, methods.erk, lambda d: methods.synflow(d, rounds=3)],
    ids=["snip", "random", "magnitude", "erk", "synflow"],
)
def test_a_budget_is_hit_within_one_weight(made, density: float) -> None:
    model = net(20, 40, 30, 30, 5)
    masks = prune(model, made(density), [BATCH], effective=True, generator=torch.Generator().manual_seed(1))
    wanted = int(density * masks.numel + 0.5)
    found = effective(model, masks, BATCH)
    assert abs(found.kept - wanted) <= 1 and masks.kept >= found.kept
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


def test_a_budget_of_everything_is_everything() -> None:
    model = net(6, 8, 3)
    assert prune(model, methods.magnitude(1.0), [torch.zeros(1, 6)], effective=True).density == 1


def test_budgets_that_cannot_be_are_refused_and_nothing_changes() -> None:
    model, few = net(20, 40, 5), drawn(net(20, 40, 5), 0.05, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(SecateurError, match=r"`effective=True` .* needs `batches`"):
        prune(model, methods.magnitude(0.1), effective=True)
    with pytest.raises(UnfitModelError, match="budget of single weights"):
        prune(model, methods.l1_filters(0.5), [BATCH], effective=True)
    with pytest.raises(SecateurError, match="not block by block"):
        prune(model, methods.magnitude(0.1), [BATCH], effective=True, blocks="0")
    with pytest.raises(SecateurError, match=r"asks for .* effective weights, and the .* fewer `rounds`"):
        prune(model, methods.magnitude(few.density), [BATCH], effective=True, masks=few)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_opens_too_much_is_passed_over() -> None:
    # The largest weights of the first layer lead to units that nothing reads, until one weight opens them all.
    model = nn.Sequential(nn.Linear(8, 1, bias=False), nn.Linear(1, 8, bias=False), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(16.0, 8, -1)[None])
        model.get_parameter("1.weight").copy_(torch.tensor([[9.0] + [0.5] * 7]).T)
        model.get_parameter("2.weight").copy_(torch.tensor([[0.1] + [0.05 * k for k in range(1, 8)]]))
    plain = method(
        "plain",
        lambda weight: weight.abs(),
        structure=structure.weights(),
        scope=scope.everywhere(),
        schedule=schedule.once(12 / 24),
    )
    masks = prune(model, plain, [torch.ones(1, 8)], effective=True)
    assert abs(effective(model, masks, torch.ones(1, 8)).kept - 12) <= 1
