"""Convolutions whose vectors run along positions: drawn ones against float64, and nothing written outside."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from secateur._base import door
from secateur.sparse.calls import addresses

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

CASES, FIRST = int(os.environ.get("SECATEUR_FUZZ", "300")), int(os.environ.get("SECATEUR_FUZZ_SEED", "0"))
SENTINEL = 7.25  # what lies around the memory that a call may touch


@dataclass(frozen=True)
class Case:
    """One convolution and one batch."""

    sizes: list[int]  # inputs, outputs, groups, height, width, kernel, stride, padding, dilation
    samples: int
    together: int
    density: float
    bias: bool

    @staticmethod
    def drawn(draw: random.Random) -> Case:
        groups = draw.choice([1, 1, 2])
        kernel = [1, 1] if draw.random() < 0.4 else [draw.randint(1, 5), draw.randint(1, 5)]
        stride = [1, 1] if draw.random() < 0.4 else [draw.randint(1, 3), draw.randint(1, 3)]
        pad = [0, 0] if draw.random() < 0.4 else [draw.randint(0, 3), draw.randint(0, 3)]
        dilation = [draw.randint(1, 2), draw.randint(1, 2)]
        image = [16, draw.choice([1, 16, 20])] if draw.random() < 0.3 else [draw.randint(1, 20), draw.randint(1, 20)]
        image = [max(n, d * (k - 1) + 1 - 2 * p) for n, k, p, d in zip(image, kernel, pad, dilation, strict=True)]
        channels = [groups * draw.randint(1, 9), groups * draw.randint(1, 12), groups]
        return Case(
            [*channels, *image, *kernel, *stride, *pad, *dilation],
            draw.choice([1, 1, 2, 3, 5, 9]),
            draw.choice([1, 1, 2, 4]),
            draw.choice([0.0, 0.1, 0.3, 0.7, 1.0]),
            draw.random() < 0.7,
        )

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        s = self.sizes
        return conv2d(x, weight, bias, (s[7], s[8]), (s[9], s[10]), (s[11], s[12]), s[2])


def guarded(count: int, fill: float) -> tuple[Tensor, Tensor]:
    """Memory for `count` numbers with sentinels around it, and those numbers."""
    whole = torch.full((count + 128,), SENTINEL)
    inside = whole[64 : 64 + count]
    inside.fill_(fill)
    return whole, inside


def untouched(whole: Tensor) -> bool:
    return bool((whole[:64] == SENTINEL).all()) and bool((whole[-64:] == SENTINEL).all())


def close(got: Tensor, want: Tensor, what: str) -> None:
    worst = (got.double() - want).abs().max().item() if want.numel() else 0.0
    assert worst <= 2e-5 * max(1.0, want.abs().max().item() if want.numel() else 0.0), f"{what}: off by {worst}"


def check(case: Case, *, trains: bool, threads: int) -> None:
    native: Any = door.native
    s = case.sizes
    mask = torch.rand(s[1], s[0] // s[2], s[5], s[6]) < case.density
    positions = mask.flatten().nonzero().flatten()
    weight = (torch.randn(mask.shape) * mask).double().requires_grad_()
    x = torch.randn(case.samples, s[0], s[3], s[4])
    exact_x = x.double().requires_grad_()
    bias = torch.randn(s[1]) if case.bias else None
    exact_bias = None if bias is None else bias.double().requires_grad_()
    want = case.dense(exact_x, weight, exact_bias)
    layer = native.PlaneConvolution(s, positions.numpy(), case.together, trains)
    assert tuple(layer.shape()) == tuple(want.shape[1:])
    values = weight.detach().float().flatten()[positions]
    held = addresses(values, bias)
    work, room = guarded(layer.work_floats(case.samples, trains), 0.0)
    whole, out = guarded(want.numel(), float("nan"))
    layer.forward(held, *addresses(x), case.samples, trains, *addresses(room, out), threads, False)
    close(out.view(want.shape), want.detach(), "forward")
    assert untouched(work) and untouched(whole)
    if not trains:
        return
    dy = torch.randn(want.shape)
    want.backward(dy.double())
    around = [guarded(n, float("nan")) for n in (len(values), s[1] if case.bias else 0, x.numel())]
    gradients = [inside for _, inside in around]
    found = addresses(gradients[0], gradients[1] if case.bias else None)
    layer.backward(held, found, *addresses(dy), case.samples, True, *addresses(room, gradients[2]), threads, False)
    assert weight.grad is not None and exact_x.grad is not None
    close(gradients[0], weight.grad.flatten()[positions], "gradient of the values")
    close(gradients[2].view(x.shape), exact_x.grad, "gradient of the input")
    if exact_bias is not None and exact_bias.grad is not None:
        close(gradients[1], exact_bias.grad, "gradient of the bias")
    assert untouched(work) and all(untouched(outside) for outside, _ in around)


def test_drawn_convolutions_compute_what_dense_ones_do_and_write_nowhere_else() -> None:
    native: Any = door.native
    before = native.isa()
    try:
        for seed in range(FIRST, FIRST + CASES):
            draw = random.Random(seed)
            torch.manual_seed(seed)
            case = Case.drawn(draw)
            native.use_isa(draw.choice(native.supported_isas()))
            try:
                check(case, trains=draw.random() < 0.6, threads=draw.choice([1, 1, 2, 3]))
            except Exception as error:
                raise AssertionError(f"seed {seed}, {native.isa()}, {case}: {error}") from error
    finally:
        native.use_isa(before)


@pytest.mark.parametrize("shape", [(8, 8, 1, 4, 4), (5, 7, 1, 16, 17)])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_larger_batch_and_a_smaller_one_share_a_workspace_only_if_it_is_cleared(
    shape: tuple[int, ...], samples: int
) -> None:
    """A second call finds what the first one left: only the borders must still be zero."""
    torch.manual_seed(0)
    native: Any = door.native
    layer = native.PlaneConvolution(
        [*shape, 3, 3, 1, 1, 1, 1, 1, 1], torch.arange(shape[0] * shape[1] * 9).numpy(), 2, False
    )
    weight = torch.randn(shape[1], shape[0], 3, 3)
    room = torch.zeros(layer.work_floats(samples, False))
    for _ in range(2):
        x = torch.randn(samples, shape[0], *shape[3:])
        out = torch.empty(samples, shape[1], *shape[3:])
        held = addresses(weight.flatten(), None)
        layer.forward(held, *addresses(x), samples, False, *addresses(room, out), 2, False)
        close(out, conv2d(x.double(), weight.double(), padding=1), "forward")


def test_what_does_not_fit_is_refused() -> None:
    native: Any = door.native
    none = torch.zeros(0, dtype=torch.int64).numpy()
    for wrong, why in (
        ([1, 1, 1, 2, 2, 3, 3, 1, 1, 0, 0, 1, 1], "must not be larger than its padded input"),
        ([3, 1, 2, 2, 2, 1, 1, 1, 1, 0, 0, 1, 1], "must divide both"),
        ([1, 1, 1, 2, 2, 1, 1, 1, 1, -1, 0, 1, 1], "must not be negative"),
    ):
        with pytest.raises(ValueError, match=why):
            native.PlaneConvolution(wrong, none, 1, True)
    sizes = [2, 3, 1, 4, 4, 1, 1, 1, 1, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="at least one sample"):
        native.PlaneConvolution(sizes, none, 0, True)
    with pytest.raises(ValueError, match="ascending and inside"):
        native.PlaneConvolution(sizes, torch.tensor([6]).numpy(), 1, True)
    layer = native.PlaneConvolution(sizes, none, 1, False)
    x, room, out = torch.zeros(32), torch.zeros(layer.work_floats(1, False)), torch.zeros(48)
    held = addresses(torch.zeros(0), None)
    for given, match in (
        ((x[1:], room, out), "the input"),
        ((x, room[:0], out), "the workspace"),
        ((x, room, out[1:]), "the output"),
    ):
        with pytest.raises(ValueError, match=match):
            layer.forward(held, *addresses(given[0]), 1, False, *addresses(*given[1:]), 1, False)
