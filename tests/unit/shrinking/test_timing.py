"""Before and after in turns; where it is no faster, a reason that can be checked."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from secateur import cost, shrink
from secateur.costing import Call, _reasons
from secateur.shrinking import _timing
from secateur.turns import Verdict


def chain(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def says(monkeypatch: pytest.MonkeyPatch, ratio: float, seconds: float = 1.0) -> None:
    monkeypatch.setattr(_timing, "decide", lambda *_, **__: Verdict(seconds, seconds * ratio, ratio, 0.02, "today"))


def test_without_asking_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timing, "decide", None)
    assert shrink(chain(32), 0.5, torch.zeros(2, 16), draws=0).certificate.timing is None


def test_what_is_measured_stands_in_the_certificate() -> None:
    certificate = shrink(chain(64), 0.5, torch.zeros(2, 16), draws=0, timed=True).certificate
    assert certificate.timing is not None
    assert certificate.timing.before > 0 and certificate.timing.after > 0
    assert str(certificate.timing) in str(certificate)


def test_what_is_faster_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 0.4, 0.01)
    found = shrink(chain(32), 0.5, torch.zeros(2, 16), draws=0, timed=True).certificate.timing
    assert str(found) == "10 -> 4 ms at best: 2.50 times as fast (± 2%, in turns)"


@pytest.mark.parametrize(
    ("seconds", "density", "width", "spent", "said"),
    [
        (1.0, 0.97, 32, {}, r"no faster here, because \d\d% of its multiplications stayed"),
        (4e-5, 0.5, 32, {}, r"most of its time goes into calling 5 operations, .*: 8 µs for each"),
        (1.0, 0.5, 32, {"1": 3.0, "3": 1.0, "0": 1.0}, r"80% of its time is in layers that multiply nothing \(ReLU\)"),
        (1.0, 0.5, 30, {"0": 1.0, "1": 0.5}, "widths such as 15 suit no vector of this processor: `multiples=8`"),
        (1.0, 0.5, 32, {"0": 1.0, "1": 0.5}, r"its \d\d% of the multiplications run no faster"),
    ],
)
def test_why_it_is_no_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, density: float, width: int, spent: dict[str, float], said: str
) -> None:
    says(monkeypatch, 1.01, seconds)
    monkeypatch.setattr(_reasons, "layer_latencies", lambda *_: spent)
    net, x = chain(width), torch.zeros(2, 16)
    net[4] = nn.Linear(width, 8)
    small = shrink(net, density, x, draws=0).model
    before, after = (cost(each, x, seconds=None) for each in (net, small))
    assert after.macs <= before.macs
    found = _timing.timing(net, small, Call((x,), {}), before, after)

    assert pytest.approx(found.ratio) == 1.01
    assert re.search(said, str(found)), str(found)


def test_the_model_is_left_as_it_was() -> None:
    net: Any = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 4))
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shrink(net, 0.5, torch.zeros(2, 16), draws=0, timed=True)

    assert net.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
