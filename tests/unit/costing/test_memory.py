"""The worst moment of a forward: by hand, and beside what torch's own allocator was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import secateur as sc

FLOAT = 4


def test_the_peak_of_a_chain_is_its_widest_pair() -> None:
    net = nn.Sequential(nn.Linear(10, 1000), nn.Sigmoid(), nn.Linear(1000, 1))
    found = sc.cost(net, torch.zeros(3, 10), seconds=None)
    held = found.bytes + FLOAT * 3 * 10

    assert found.memory == held + FLOAT * 3 * 2000  # the sigmoid's argument and its result
    assert [layer.memory for layer in found.layers] == [held + FLOAT * 3 * 1000, found.memory, held + FLOAT * 3 * 1001]


def test_what_is_done_in_place_needs_no_more() -> None:
    out, inplace = (
        sc.cost(nn.Sequential(nn.Linear(10, 1000), nn.ReLU(inplace=flag)), torch.zeros(3, 10), seconds=None).memory
        for flag in (False, True)
    )
    assert out - inplace == FLOAT * 3 * 1000


def test_a_skip_connection_is_alive_while_its_branch_runs() -> None:
    class Skip(nn.Module):
        def __init__(self, skips: bool) -> None:
            super().__init__()
            self.one, self.two, self.skips = nn.Linear(10, 10), nn.Linear(10, 10), skips

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            first = y if self.skips else None
            y = self.two(y)
            y = y * 2
            return y + (1 if first is None else first)

    with_it, without = (sc.cost(Skip(flag), torch.zeros(5, 10), seconds=None).memory for flag in (True, False))
    assert with_it - without == FLOAT * 5 * 10


def _asked_for(net: nn.Module, x: Tensor) -> int:
    """The most bytes that torch's CPU allocator had given out during a forward."""
    net.eval()
    with torch.inference_mode():
        net(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            net(x)
    now = peak = 0
    for event in seen.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 50), nn.ReLU(), nn.Linear(50, 1)), (3, 10)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    ],
    ids=["perceptron", "encoder"],
)
def test_it_is_what_the_allocator_gave_out(net: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    found = sc.cost(net, x, seconds=None)
    assert found.memory - found.bytes - FLOAT * x.numel() == _asked_for(net, x)


def test_a_model_on_meta_says_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    meta = sc.coupling.on_meta(net)
    x = torch.zeros(2, 3, 9, 9)
    assert sc.cost(net, x, seconds=None) == sc.cost(meta, x.to("meta"), seconds=None)
