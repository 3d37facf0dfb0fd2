"""Drawn models, masks and inputs against dense torch in float64: values, gradients and training steps.

`SECATEUR_FUZZ=2000` draws that many models instead of a few, `SECATEUR_FUZZ_SEED=7` begins at another seed. A failure
names its seed and what was drawn from it.
"""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, unfold

from secateur import Masks
from secateur._base import door
from secateur.sparse import BreakEven, Machine, UnsupportedError, compile_step, sparsify
from secateur.sparse.layers import SparseConvolution, SparseLinear, SparseRecurrent

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

CASES, FIRST = int(os.environ.get("SECATEUR_FUZZ", "100")), int(os.environ.get("SECATEUR_FUZZ_SEED", "0"))
ALWAYS = Machine("always sparse", False, (BreakEven(64, 128, 2.0),), convolution=2.0)
NEAR = 1e-5  # a ReLU or a maximum that close to its edge may fall on either side of it


class Draw(random.Random):
    """What a seed stands for."""

    def batch(self) -> int:
        return self.choice([1, 2, 3, 7, 15, 16, 17, 31, 33, 50])

    def mask(self, shape: torch.Size) -> Tensor:
        density = self.choice([0.0, 0.02, 0.1, 0.3, 0.7, 1.0])
        mask = torch.rand(shape) < density
        if self.random() < 0.3:
            mask[torch.rand(shape[0]) < 0.3] = False  # outputs without inputs
        if self.random() < 0.3:
            mask[:, torch.rand(shape[1]) < 0.3] = False
        if self.random() < 0.2 and len(shape) == 2:
            mask = mask[: shape[0] // 4 * 4 : 4].repeat_interleave(4, 0)  # blocks, which have kernels of their own
            mask = torch.cat([mask, torch.rand(shape[0] - len(mask), shape[1]) < density])
        return mask


def linear(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    widths = [draw.choice([1, 2, 5, 16, 17, 40, 70]) for _ in range(draw.randint(2, 4))]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=draw.random() < 0.7), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), (*[draw.randint(1, 3) for _ in range(draw.choice([0, 0, 1, 2]))], widths[0])


def geometry(draw: Draw, rank: int) -> dict[str, Any]:
    def sizes(most: int, least: int = 1) -> Any:
        return (
            tuple(draw.randint(least, most) for _ in range(rank)) if draw.random() < 0.5 else draw.randint(least, most)
        )

    groups = draw.choice([1, 1, 1, 2, 4])
    kernel = sizes(5)
    return {
        "in_channels": groups * draw.randint(1, 6),
        "out_channels": groups * draw.randint(1, 9),
        "groups": groups,
        "kernel_size": kernel,
        "stride": sizes(3),
        "padding": draw.choice(["valid", sizes(3, 0)]),
        "dilation": draw.choice([1, 1, sizes(2)]),
        "bias": draw.random() < 0.7,
    }


def convolution(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    rank = draw.choice([1, 2, 2])
    options = geometry(draw, rank)
    layer = (nn.Conv2d if rank == 2 else nn.Conv1d)(**options)
    reach = max(d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return layer, (layer.in_channels, *[draw.randint(reach, reach + 9) for _ in range(rank)])


def network(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    """Convolutions with all that may stand behind them in one call, and linear layers."""
    channels, height, width = draw.randint(1, 4), draw.randint(6, 13), draw.randint(6, 13)
    shape = (channels, height, width)
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        out, kernel = draw.choice([2, 5, 8, 16]), draw.choice([1, 3, 3, 5])
        layers.append(nn.Conv2d(channels, out, kernel, draw.choice([1, 1, 2]), kernel // 2, bias=draw.random() < 0.6))
        layers += [nn.BatchNorm2d(out)] if draw.random() < 0.4 else []
        layers += [nn.ReLU()] if draw.random() < 0.7 else []
        pools = (
            nn.MaxPool2d(2),
            nn.MaxPool2d(3, 2, 1),
            nn.AvgPool2d(2, 1),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        )
        layers += [draw.choice(pools)] if draw.random() < 0.4 else []
        channels = out
    features = nn.Sequential(*layers)(torch.zeros(2, *shape)).flatten(1).shape[1]
    head = [nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, 5)] if draw.random() < 0.5 else [nn.Linear(features, 5)]
    return nn.Sequential(*layers, nn.Flatten(), *head), shape


def recurrent(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    options = {
        "input_size": draw.randint(1, 20),
        "hidden_size": draw.choice([1, 3, 16, 21]),
        "num_layers": draw.choice([1, 1, 2]),
        "bias": draw.random() < 0.8,
        "batch_first": True,
        "bidirectional": draw.random() < 0.3,
    }
    return draw.choice([nn.LSTM, nn.GRU])(**options), (draw.randint(1, 9), options["input_size"])


KINDS = {"linear": linear, "convolution": convolution, "network": network, "recurrent": recurrent}


def strided(draw: Draw, x: Tensor) -> Tensor:
    """The same numbers in another order of memory."""
    how = draw.choice(["plain", "plain", "permuted", "spaced", "channels last", "expanded", "negated"])
    if how == "permuted":
        order = list(range(x.dim()))
        draw.shuffle(order)
        back = [order.index(i) for i in range(x.dim())]
        return x.permute(order).contiguous().permute(back)
    if how == "spaced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan"))
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if how == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if how == "expanded":
        return x[:1].expand_as(x)
    return torch._neg_view(x.neg()) if how == "negated" else x


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def watch_edges(model: nn.Module) -> list[bool]:
    """Note for each ReLU and each maximum of a forward pass whether a number lies close to its edge."""
    found: list[bool] = []

    def note(module: Any, inputs: tuple[Tensor], _: Any) -> None:
        x = inputs[0].detach()
        if not x.numel():
            return
        if isinstance(module, nn.ReLU):
            gaps = x.abs()
        else:
            k, s, p = module.kernel_size, module.stride, module.padding
            windows = unfold(pad(x.flatten(0, 1)[:, None], (p, p, p, p), value=-1e30), k, stride=s)
            top = windows.topk(2, dim=1).values
            gaps = top[:, 0] - top[:, 1]
        found.append(bool(((gaps > 0) & (gaps < NEAR * max(1.0, x.abs().max().item()))).any()))

    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(note)
    return found


def close(got: Tensor | None, want: Tensor | None, what: str) -> None:
    if got is None or want is None:
        assert got is None or not got.any(), what
        assert want is None or not want.any(), what
        return
    assert got.shape == want.shape, what
    if want.numel():
        worst = (got.double() - want).abs().max().item()
        assert worst <= 2e-4 * max(1.0, want.abs().max().item()), f"{what}: off by {worst}"


def gradients(fast: nn.Module, exact: nn.Module) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """Each parameter's gradient, and what it is in the dense network: where a weight survived."""
    for path, module in fast.named_modules():
        twin: Any = exact.get_submodule(path)
        for name, parameter in module.named_parameters(recurse=False):
            want: Tensor | None = getattr(twin, name.replace("values", "weight") if "values" in name else name).grad
            if name == "values" and isinstance(module, SparseLinear | SparseConvolution) and want is not None:
                want = module.plan.gather(want)
            elif name.startswith("values") and isinstance(module, SparseRecurrent) and want is not None:
                _, which, suffix = name.split("_", 2)
                want = module.plans[module.options.suffixes.index(suffix)].parts[which == "hh"].gather(want)
            yield f"{path}.{name}", parameter.grad, want


def drawn(draw: Draw, kind: str) -> tuple[nn.Module, Masks, Tensor]:
    torch.manual_seed(draw.randrange(2**31))
    model, shape = KINDS[kind](draw)
    masks = Masks({n: draw.mask(p.shape) for n, p in model.named_parameters() if p.dim() > 1})
    masks.apply_(model)
    return model, masks, strided(draw, torch.randn(draw.batch(), *shape))


def check_passes(draw: Draw, kind: str) -> None:
    """Forward, backward and inference of a sparsified model; an empty batch; another type."""
    model, masks, x = drawn(draw, kind)
    training = draw.random() < 0.5 and x.shape[0] > 1
    fast, exact = sparsify(model, masks, machine=ALWAYS).train(training), copy.deepcopy(model).double().train(training)
    edges = watch_edges(exact)
    mine, theirs = x.detach(), x.detach().double().requires_grad_()
    if wants := draw.random() < 0.8:
        mine.requires_grad_()
    got, want = first(fast(mine)), first(exact(theirs))
    close(got.detach(), want.detach(), "forward")
    weights = strided(draw, torch.randn(want.shape))
    got.backward(weights), want.backward(weights.double())
    if not any(edges):
        for name, a, b in gradients(fast, exact):
            close(a, b, f"gradient of {name}")
        if wants:
            close(mine.grad, theirs.grad, "gradient of the input")
    with torch.no_grad():
        for batch in (x.detach(), x.detach()[:1], x.detach()[1:]):
            close(first(fast.eval()(batch)), first(exact.eval()(batch.double())), f"inference of {len(batch)}")
        if draw.random() < 0.7:
            return
        kind_of_float = draw.choice([torch.bfloat16, torch.float16, torch.float64])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*computes densely")
            low = first(fast.to(kind_of_float)(x.detach().to(kind_of_float)))
        whole = first(exact(x.detach().double()))
        assert torch.allclose(low.double(), whole, rtol=0.1, atol=0.05 * float(1 + whole.abs().max())), kind_of_float


def check_steps(draw: Draw, kind: str) -> None:
    """Two compiled steps against an eager loop whose gradients are masked."""
    model, masks, x = drawn(draw, kind)
    x = x.detach()
    if x.shape[0] == 1:
        x = torch.cat([x, x.flip(-1)])
    x = x if kind == "network" else x.reshape(len(x), -1, x.shape[-1])[:, 0]
    y = torch.randint(first(model(x)).shape[1], (len(x),))
    make = draw.choice(
        [
            lambda p: torch.optim.SGD(p, lr=0.05),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        ]
    )
    exact = copy.deepcopy(model).double()
    edges = watch_edges(exact)
    step, optimizer = compile_step(model, masks, cross_entropy, make(model.parameters())), make(exact.parameters())
    kept = {id(p): masks[n] for n, p in exact.named_parameters() if n in masks}
    for batch, targets in ((x, y), (x[: max(2, len(x) // 2)], y[: max(2, len(x) // 2)])):
        loss = cross_entropy(exact(batch.double()), targets)
        close(torch.tensor(step(batch, targets)), loss.detach(), "loss")
        optimizer.zero_grad()
        loss.backward()
        for parameter in exact.parameters():
            if id(parameter) in kept and parameter.grad is not None:
                parameter.grad.mul_(kept[id(parameter)])
        optimizer.step()
        if any(edges):
            return
    step.write_back()
    for name, value in exact.state_dict().items():
        close(model.state_dict()[name], value, name)


def run(check: Callable[[Draw, str], None], kind: str, cases: int) -> None:
    native: Any = door.native
    before, threads = native.isa(), torch.get_num_threads()
    print(f"{check.__name__} of {kind}: seeds {FIRST} to {FIRST + cases - 1}")
    try:
        for seed in range(FIRST, FIRST + cases):
            draw = Draw(seed)
            native.use_isa(draw.choice(native.supported_isas()))
            torch.set_num_threads(draw.choice([1] * 9 + [3]))
            try:
                check(draw, kind)
            except UnsupportedError:
                continue
            except Exception as error:
                raise AssertionError(f"{check.__name__} of {kind}, seed {seed}, {native.isa()}: {error}") from error
    finally:
        native.use_isa(before)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_models_compute_what_dense_ones_do(kind: str) -> None:
    run(check_passes, kind, CASES // 6)


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_drawn_networks_train_as_dense_ones_do(kind: str) -> None:
    run(check_steps, kind, CASES // 6)
