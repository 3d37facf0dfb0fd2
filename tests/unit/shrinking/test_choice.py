"""Which units stay, down to which budget; the parameter counts of published nets at half of their channels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coupling_nets import residual
from secateur import SecateurError, coupling, shrink
from secateur.costing import Call, count
from secateur.coupling import on_meta
from secateur.shrinking import l1, unit_scores
from secateur.shrinking._choose import choose
from secateur.shrinking.cuts import cut_


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, wide: bool) -> None:
        super().__init__()
        out = width * 4 if wide else width
        first = (inputs, width, 1, 1) if wide else (inputs, width, 3, stride)
        rest = [(width, width, 3, stride), (width, out, 1, 1)] if wide else [(width, width, 3, 1)]
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o)) for i, o, k, s in [first, *rest]
        )
        passes = stride == 1 and inputs == out
        self.down = (
            nn.Identity()
            if passes
            else nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.body[:-1]:
            y = F.relu(layer(y), inplace=True)
        return F.relu(self.body[-1](y) + self.down(x))


def resnet(depths: tuple[int, ...], wide: bool) -> nn.Module:
    """ResNet-18 is (2, 2, 2, 2), ResNet-50 (3, 4, 6, 3) and wide."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for k, depth in enumerate(depths):
        for j in range(depth):
            layers.append(Block(inputs, 64 << k, 2 if k and not j else 1, wide))
            inputs = (64 << k) * (4 if wide else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class Inverted(nn.Module):
    def __init__(self, inputs: int, out: int, times: int, stride: int) -> None:
        super().__init__()
        inner = inputs * times
        sizes = [(inner, inner, 3, stride, inner), (inner, out, 1, 1, 1)]
        sizes = sizes if times == 1 else [(inputs, inner, 1, 1, 1), *sizes]
        self.body, self.passes = nn.Sequential(*_layers(sizes)), stride == 1 and inputs == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.passes else self.body(x)


def _layers(sizes: list[tuple[int, int, int, int, int]]) -> Iterator[nn.Module]:
    for k, (i, o, size, stride, groups) in enumerate(sizes):
        yield nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False)
        yield nn.BatchNorm2d(o)
        if k < len(sizes) - 1:
            yield nn.ReLU6()


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    inputs = 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for times, out, blocks, stride in table:
        for k in range(blocks):
            layers.append(Inverted(inputs, out, times, 1 if k else stride))
            inputs = out
    layers += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1280, 1000))


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        (lambda: resnet((2, 2, 2, 2), False), 11_689_512, 3_055_880),
        (lambda: resnet((3, 4, 6, 3), True), 25_557_032, 6_917_640),
        (mobilenet_v2, 3_504_872, 1_221_768),
    ],
    ids=["resnet18", "resnet50", "mobilenet_v2"],
)
def test_half_the_channels_of_published_nets(model: object, before: int, after: int) -> None:
    net = model()  # pyright: ignore[reportCallIssue]
    call = Call((torch.zeros(1, 3, 64, 64),), {})
    found = coupling.trace(net, *call.inputs)
    made = choose(net, found, {"units": 0.5}, l1, call).plan
    small = on_meta(net)
    cut_(small, made)

    assert sum(p.numel() for p in net.parameters()) == before
    assert sum(p.numel() for p in small.parameters()) == after
    assert not made.frozen and not found.unknown


def test_the_smallest_filters_go() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        for k, size in enumerate((3.0, 1.0, 4.0, 2.0)):
            net[0].weight[k] = size / 18  # pyright: ignore[reportCallIssue]
    _, _, manifest = shrink(net, 0.5, torch.randn(1, 2, 6, 6), draws=0)

    assert manifest.kept["0.weight"] == {0: (0, 2)}
    (record,) = manifest.groups
    assert (record.total, record.kept) == (4, (0, 2))


def test_a_unit_of_a_residual_stream_is_worth_what_all_that_write_it_are() -> None:
    net, x = residual()
    found = coupling.trace(net, *x)
    worth = unit_scores(net, found, l1)
    stream = next(entry.ids for entry in found.entries if entry.names[0] == "0.weight" and entry.dim == 0)

    writers = ("0.weight", "1.two.weight")  # the stem and the end of the first block's branch
    want = sum(net.get_parameter(name).detach().double().abs().sum((1, 2, 3)) for name in writers)
    torch.testing.assert_close(torch.from_numpy(worth[stream]), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("of", ["params", "macs", "bytes"])
def test_a_budget_is_kept_and_nearly_used(of: str) -> None:
    net, x = residual()
    _, certificate, _ = shrink(net, 0.4, x, of=of, draws=0, modes=("eval",))
    share = certificate.after.of(of) / certificate.before.of(of)

    assert 0.25 < share <= 0.4


def test_macs_are_those_counted_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 36, 5))
    found = count(net, Call((torch.zeros(2, 3, 6, 6),), {}))

    assert found.macs == 2 * (36 * 8 * 27 + 5 * 288)
    assert found.bytes == 4 * found.params == 4 * (8 * 27 + 8 + 5 * 288 + 5)


def test_a_budget_out_of_reach_says_the_nearest() -> None:
    with pytest.raises(SecateurError, match=r"one unit left in each group 0\.\d+ stay"):
        shrink(nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 30)), 0.01, torch.zeros(1, 10), of="params")
    with pytest.raises(SecateurError, match=r"`of` must be one of .* Did you mean 'macs'"):
        shrink(nn.Linear(3, 3), 0.5, torch.zeros(1, 3), of="mac")
