"""Several budgets at once, peak memory and milliseconds; widths that are multiples; whose units may go."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coupling_nets import residual
from secateur import SecateurError, cost, methods, shrink
from secateur.selection import kept_count
from secateur.shrinking import _choose

QUICK: dict[str, Any] = {"draws": 0, "modes": ("eval",)}


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for one, two in pairwise(widths):
        layers += [nn.Linear(one, two), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def widths(net: nn.Module) -> list[int]:
    return [module.out_features for module in net.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(
    "budgets", [{"params": 0.5, "macs": 0.3}, {"macs": 0.5, "params": 0.3}, {"units": 0.4, "macs": 0.9}]
)
def test_all_of_several_budgets_hold_and_one_is_used_up(budgets: dict[str, float]) -> None:
    net, x = residual()
    _, certificate, manifest = shrink(net, budgets, x, **QUICK)
    shares = {kind: certificate.after.of(kind) / certificate.before.of(kind) for kind in budgets if kind != "units"}

    assert all(share <= budgets[kind] for kind, share in shares.items())
    if "units" in budgets:
        assert [len(each.kept) for each in manifest.groups] == [kept_count(0.4, each.total) for each in manifest.groups]
    else:
        assert any(share > 0.75 * budgets[kind] for kind, share in shares.items())


def test_peak_memory_is_a_budget() -> None:
    net, x = chain(8, 500, 20, 8), torch.zeros(64, 8)
    small, certificate, _ = shrink(net, 0.6, x, of="memory", **QUICK)

    assert 0.5 < certificate.after.memory / certificate.before.memory <= 0.6
    assert certificate.after.memory == cost(small, x, seconds=None).memory


def test_milliseconds_are_searched_in_turns_and_looked_at_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    net, x = chain(10, 100, 100, 10), torch.zeros(4, 10)
    whole = cost(net, x, seconds=None).macs

    def ratio(search: Any, units: float, seconds: float) -> float:
        looks.append(seconds)
        small = _choose.cut(net, search.at(units).plan)
        slower = 1.1 if seconds > _choose._SECONDS else 1.0  # the longer look finds what the short one missed
        return slower * cost(small, x, seconds=None).macs / whole

    monkeypatch.setattr(_choose._Search, "_ratio", ratio)
    _, certificate, _ = shrink(net, 0.5, x, of="ms", **QUICK)

    assert 0.35 < certificate.after.macs / whole <= 0.5 / 1.1
    assert len(looks) < 12 and looks[-1] == _choose._FINAL_SECONDS
    with pytest.raises(SecateurError, match=r"`density` 0\.001 of ms cannot be reached: .* 0\.00\d* of the time"):
        shrink(net, 0.001, x, of="ms", **QUICK)


def test_milliseconds_are_measured() -> None:
    net, x = chain(64, 1024, 1024, 8), torch.zeros(64, 64)
    _, certificate, _ = shrink(net, 0.7, x, of="ms", **QUICK)
    assert certificate.after.macs < certificate.before.macs


@pytest.mark.parametrize("multiples", [4, 8])
def test_widths_are_multiples(multiples: int) -> None:
    small, _, _ = shrink(chain(10, 30, 32, 12, 5), 0.4, torch.zeros(2, 10), multiples=multiples, **QUICK)
    assert all(width % multiples == 0 for width in widths(small)[:-1])
    assert widths(small)[-1] == 5
    assert widths(small)[:2] == [12, 12] if multiples == 4 else [16, 16]


def test_a_layer_narrower_than_the_multiple_stays_whole() -> None:
    small, _, _ = shrink(chain(10, 6, 16, 5), 0.3, torch.zeros(2, 10), multiples=8, **QUICK)
    assert widths(small) == [6, 8, 5]


def test_a_budget_is_kept_with_multiples() -> None:
    _, certificate, manifest = shrink(chain(10, 64, 64, 5), 0.5, torch.zeros(2, 10), of="params", multiples=8, **QUICK)
    assert certificate.after.params <= 0.5 * certificate.before.params
    assert all(len(group.kept) % 8 == 0 for group in manifest.groups)


def test_heads_make_multiples_by_the_width_that_they_are() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.q, self.out = 8, nn.Linear(4, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            each = self.q(x).unflatten(-1, (self.heads, 4)) * torch.tensor([1.0, 2.0, 3.0, 4.0]).to(x)
            return self.out(each.flatten(-2))

    small, _, _ = shrink(Heads(), 0.3, torch.zeros(2, 4), multiples=16, **QUICK)
    assert small.get_submodule("q").out_features == 16


def test_at_least_so_many_stay() -> None:
    small, _, _ = shrink(chain(10, 30, 8, 5), 0.1, torch.zeros(2, 10), minimum=5, **QUICK)
    assert widths(small) == [5, 5, 5]
    with pytest.raises(SecateurError, match=r"as few units as `only`, `multiples` and `minimum` allow 0\.9"):
        shrink(chain(10, 30, 8, 5), 0.5, torch.zeros(2, 10), of="params", minimum=29, **QUICK)


@pytest.mark.parametrize(
    ("only", "after"),
    [
        ("0", [15, 32, 12, 5]),
        ("2.weight", [30, 16, 12, 5]),
        ("[24]", [30, 16, 6, 5]),
        (["0", "4.*"], [15, 32, 6, 5]),
        (nn.Linear, [15, 16, 6, 5]),
        (lambda name, weight: weight.shape[0] == 12, [30, 32, 6, 5]),
    ],
)
def test_only_the_selected_are_cut(only: Any, after: list[int]) -> None:
    small, _, _ = shrink(chain(10, 30, 32, 12, 5), 0.5, torch.zeros(2, 10), only=only, **QUICK)
    assert widths(small) == after


def test_units_that_others_write_as_well_stay_unless_these_are_selected() -> None:
    net, x = residual()
    with pytest.raises(SecateurError, match=r"the units of '0' are written by 1\.two\.weight as well\."):
        shrink(net, 0.5, x, only="0", **QUICK)
    small, _, _ = shrink(net, 0.5, x, only=["0", "1.two"], **QUICK)
    assert small.get_parameter("0.weight").shape[0] == 4
    assert small.get_parameter("1.one.weight").shape == (8, 4, 3, 3)


def test_methods_take_types_and_modules() -> None:
    net, x = chain(10, 30, 32, 12, 5), torch.zeros(2, 10)
    assert widths(shrink(net, methods.l1_filters(0.5), x, only="2", **QUICK).model) == [30, 16, 12, 5]
    assert widths(shrink(net, methods.l1_filters(0.5), x, only=nn.Linear, **QUICK).model)[0] == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "3.*"}, r"nothing in the model matches '3\.\*'"),
        ({"only": "2.wieght"}, r"nothing in the model matches '2.wieght'. Did you mean '2.weight'\?"),
        ({"only": nn.Conv2d}, "no module of the model is a Conv2d. There are: Linear, ReLU"),
        ({"only": "4"}, "'4' has no units that can go: .*is an output of the model"),
        ({"multiples": 0}, "`multiples` must be a whole number of at least 1, got 0"),
        ({"minimum": -1}, "`minimum` must be a whole number of at least 1, got -1"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        shrink(chain(10, 30, 8, 5), 0.5, torch.zeros(2, 10), **options)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ({"mac": 0.5}, {}, "`what` must be one of .* got 'mac'. Did you mean 'macs'"),
        ({}, {}, "`what` must name at least one budget"),
        ({"macs": 5}, {}, r"`density` must be in \(0, 1\], got 5"),
        ({"macs": 0.5}, {"of": "params"}, "`of` is for one density as `what`, and these say of what they are"),
        (0.5, {"of": "memry"}, "`of` must be one of .* Did you mean 'memory'"),
    ],
)
def test_wrong_budgets(what: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        shrink(chain(10, 30, 5), what, torch.zeros(2, 10), **options)
