"""SFP: so many filters are zero after each cut, all of them learn on, and the last cut is for good."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import seeded
from secateur import Pruner, methods, scope
from secateur._base.errors import SecateurError, UnfitModelError

UNTIL, EVERY, DENSITY = 11, 4, 0.6
CUTS = (0, 4, 8, 11)


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        convolutions = nn.Conv2d(2, 10, 3), nn.BatchNorm2d(10), nn.Tanh(), nn.Conv2d(10, 7, 3)
        return nn.Sequential(*convolutions, nn.Tanh(), nn.Flatten(), nn.Linear(28, 3)).double()


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs = torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=seeded(number))
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), torch.arange(8) % 3).backward()
    optimizer.step()


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def _zeros(weight: Tensor) -> Tensor:
    return (weight.detach().flatten(1) == 0).all(1)


def test_the_filters_of_the_smallest_norm_become_zero_and_grow_again() -> None:
    model = _net()
    initial = {name: model.get_parameter(name).detach().clone() for name in ("0.weight", "3.weight")}
    optimizer = _sgd(model)
    stepped: dict[str, Tensor] = dict(initial)
    optimizer.register_step_post_hook(
        lambda *_: stepped.update({name: model.get_parameter(name).detach().clone() for name in initial})
    )
    pruner = Pruner(model, methods.soft_filters(DENSITY, until=UNTIL, every=EVERY))
    chosen: list[Tensor] = []
    for t in range(16):
        if t:
            _train(model, optimizer, t)
        for name, before in stepped.items():
            now, count = model.get_parameter(name).detach(), math.floor(DENSITY * len(before) + 0.5)
            if t in CUTS:
                norms = before.flatten(1).norm(dim=1)
                lowest = norms.sort().values[len(before) - count - 1]
                assert torch.equal(_zeros(now), norms <= lowest) and int(_zeros(now).sum()) == len(before) - count
                assert torch.equal(now[norms > lowest], before[norms > lowest])
                chosen += [_zeros(now)] if name == "0.weight" else []
            elif t < UNTIL:
                assert not bool(_zeros(now).any()), f"a filter does not learn on at step {t}"
            else:
                assert int(_zeros(now).sum()) == len(before) - count
        if t < UNTIL:
            assert pruner.masks.density == 1  # nothing is cut for good yet
    assert len(chosen) == 4 and pruner.exploration == 1
    masks = pruner.finish()
    assert torch.equal(~masks["0.weight"].flatten(1).any(1), chosen[-1]) and bool(masks["6.weight"].all())
    assert all(bool((p[~masks[n]] == 0).all()) for n, p in model.named_parameters() if n in masks)


def test_between_two_cuts_training_is_dense_training() -> None:
    model, twin = _net(), _net()
    Pruner(model, methods.soft_filters(DENSITY, until=UNTIL, every=EVERY))
    twin.load_state_dict(model.state_dict())  # the first cut
    optimizers = [_sgd(model), _sgd(twin)]
    for t in range(1, EVERY):
        _train(model, optimizers[0], t)
        _train(twin, optimizers[1], t)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_biases_and_batch_norm_stay_so_that_a_cut_filter_puts_out_a_constant() -> None:
    model = _net()
    with torch.no_grad():
        model[1].bias.fill_(0.7)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n not in ("0.weight", "3.weight")}
    Pruner(model, methods.soft_filters(DENSITY, until=UNTIL, every=EVERY)).release()
    assert all(torch.equal(model.get_parameter(name), old) for name, old in before.items())
    out = model[:2](torch.randn(4, 2, 6, 6, dtype=torch.float64))[:, _zeros(model[0].weight)]
    torch.testing.assert_close(out, torch.full_like(out, 0.7))


def test_a_network_without_convolutions_is_refused_and_linear_layers_are_a_choice() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UnfitModelError, match=r"the network has none among 0\.weight, 2\.weight.*`layerwise\(\)`"):
        Pruner(model, methods.soft_filters(0.5, until=9, every=2))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    Pruner(model, methods.soft_filters(0.5, until=9, every=2, scope=scope.layerwise()), only=["0.weight"])
    assert int(_zeros(model[0].weight).sum()) == 5 and int(_zeros(model[2].weight).sum()) == 0


def test_a_run_goes_on_from_every_step_in_either_order_of_loading() -> None:
    def begin(model: nn.Module | None = None) -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
        model = model or _net()
        return model, Pruner(model, methods.soft_filters(DENSITY, until=UNTIL, every=EVERY)), _sgd(model)

    whole = begin()
    for t in range(1, 15):
        _train(whole[0], whole[2], t)
    for stop, loaded_before in itertools.product((0, 3, 4, 9, 11, 13), (True, False)):
        first = begin()
        for t in range(1, stop + 1):
            _train(first[0], first[2], t)
        model = _net()
        model.load_state_dict(first[0].state_dict())
        again = begin(model if loaded_before else None)
        if not loaded_before:
            again[0].load_state_dict(first[0].state_dict())
        again[1].load_state_dict(first[1].state_dict())
        again[2].load_state_dict(first[2].state_dict())
        for t in range(stop + 1, 15):
            _train(again[0], again[2], t)
        assert again[1].masks == whole[1].masks
        assert all(torch.equal(a, b) for a, b in zip(again[0].parameters(), whole[0].parameters(), strict=True)), stop


def test_bad_clocks_are_refused() -> None:
    with pytest.raises(SecateurError, match="`every` must be at least 1 and shorter than"):
        methods.soft_filters(0.5, until=10, every=10)
    with pytest.raises(SecateurError, match="`until` must come after `begin`"):
        methods.soft_filters(0.5, until=0)
