"""The invariant of `sparsify`: for whatever layer, shape, density, batch and mode, never slower than dense.

    python benchmarks/never_slower.py --cases 200 --seed 0 [--transformers] [--autocast]

Random layers and small networks are sparsified with `example_inputs` and timed in turns against the best of: dense as
torch runs it, dense channels-last, dense through oneDNN. In training (forward and backward) the dense model's zeros
are held, for that is what sparse training replaces. With --autocast all of it runs under bfloat16 autocast, and dense
linear layers that keep their rounded weights take the place of oneDNN's. A case fails if the 95 % interval of the
paired ratio lies above 1.05. A line for each failure, a summary, and an exit status of 1 if there is any.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from _common import through_onednn
from torch import Tensor, nn
from transformer_blocks import Conv1D

from secateur import Masks, hold, sparsify
from secateur._base import door
from secateur.sparse import report_of
from secateur.sparse.calls import autocast_to
from secateur.sparse.convert._timed import crashes_channels_last
from secateur.sparse.layers import RoundedLinear
from secateur.sparse.timing import decide, processor

LIMIT = 1.05
DENSITIES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
Made = tuple[nn.Module, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """What was tried: a model, its input, what is kept, the mode; then the ratio to the best dense way."""

    what: str
    shape: tuple[int, ...]
    density: float
    mode: str
    ratio: float
    spread: float
    choices: str

    @property
    def fails(self) -> bool:
        """Whether it is slower for certain."""
        return self.ratio * (1 - self.spread) > LIMIT


# ------------------------------------------------------------------ random models
def _size(rng: random.Random, low: int, high: int) -> int:
    return int(math.exp(rng.uniform(math.log(low), math.log(high))))


def linear(rng: random.Random) -> Made:
    rows, columns = _size(rng, 16, 4096), _size(rng, 16, 4096)
    batch = rng.choice((1, 1, 8, 32, 128, 512))
    shape = (batch, columns) if rng.random() < 0.7 else (max(1, batch // 16), 16, columns)
    return nn.Linear(columns, rows, bias=rng.random() < 0.8), shape


def convolution(rng: random.Random) -> Made:
    kernel = rng.choice((1, 1, 3, 3, 3, 5))
    into, out = 8 * _size(rng, 1, 64), 8 * _size(rng, 1, 64)
    groups, side = rng.choice((1, 1, 1, 2)), rng.choice((7, 14, 28, 56))
    side = side if into * out * kernel**2 * side**2 < 1e9 else 7
    layer = nn.Conv2d(into, out, kernel, stride=rng.choice((1, 1, 2)), padding=kernel // 2, groups=groups)
    return layer, (rng.choice((1, 1, 4, 16)), into, side, side)


def sequence(rng: random.Random) -> Made:
    into, out = 8 * _size(rng, 1, 32), 8 * _size(rng, 1, 32)
    return nn.Conv1d(into, out, 3, padding=1), (rng.choice((1, 8)), into, rng.choice((32, 128)))


def recurrent(rng: random.Random) -> Made:
    into, units = _size(rng, 16, 256), _size(rng, 32, 256)
    kind = rng.choice((nn.LSTM, nn.GRU))
    return kind(into, units, batch_first=True), (rng.choice((1, 16, 64)), rng.choice((8, 28)), into)


def perceptron(rng: random.Random) -> Made:
    widths = [_size(rng, 32, 1024) for _ in range(rng.choice((3, 4)))]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), (rng.choice((1, 16, 128)), widths[0])


def network(rng: random.Random) -> Made:
    width, side = 8 * _size(rng, 1, 12), rng.choice((8, 16, 32))
    body = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    body += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(2 * width, 10)), (rng.choice((1, 8, 32)), 3, side, side)


class Attending(nn.Module):
    """Self-attention as a module of one input."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def _tokens(rng: random.Random) -> tuple[int, int, int]:
    """Samples, tokens, features."""
    return rng.choice((1, 1, 4, 16)), rng.choice((1, 16, 64, 128)), 32 * _size(rng, 2, 32)


def attention(rng: random.Random) -> Made:
    shape = _tokens(rng)
    return Attending(shape[2], rng.choice((1, 4, 8))), shape


def conv1d(rng: random.Random) -> Made:
    shape = _tokens(rng)
    return Conv1D(rng.choice((1, 3, 4)) * shape[2], shape[2]), shape


def encoder(rng: random.Random) -> Made:
    shape = _tokens(rng)
    kind, inner = rng.choice(("relu", "gelu")), rng.choice((2, 4)) * shape[2]
    return nn.TransformerEncoderLayer(shape[2], 8, inner, 0.0, kind, batch_first=True), shape


KINDS: tuple[Callable[[random.Random], Made], ...] = (
    linear, linear, convolution, convolution, sequence, recurrent, perceptron, network,
)  # fmt: skip
TRANSFORMERS = (attention, conv1d, encoder)


# ------------------------------------------------------------------ one case
def run(rng: random.Random, seconds: float, kinds: tuple[Callable[[random.Random], Made], ...]) -> Case:
    kind, density, mode = rng.choice(kinds), rng.choice(DENSITIES), rng.choice(("inference", "training"))
    torch.manual_seed(rng.randrange(1 << 30))
    model, shape = kind(rng)
    model.train(mode == "training")
    x = torch.rand(shape)
    masks = Masks({n: torch.rand(p.shape) < density for n, p in model.named_parameters() if p.dim() > 1})
    fast = sparsify(model, masks, example_inputs=x)
    calls = [_call(way, x, mode) for way in _dense(model, masks, x)]
    verdicts = [decide(call, _call(fast, x, mode), seconds=seconds) for call in calls]
    worst = max(verdicts, key=lambda verdict: verdict.ratio)
    chosen = "/".join(line.choice.value for line in report_of(fast).layers)
    return Case(f"{kind.__name__} {_short(model)}", shape, density, mode, worst.ratio, worst.spread, chosen)


def _dense(model: nn.Module, masks: Masks, x: Tensor) -> list[nn.Module]:
    ways = [copy.deepcopy(model), (_rounded if autocast_to(x) else through_onednn)(copy.deepcopy(model))]
    if x.dim() == 4 and not (model.training and any(map(crashes_channels_last, model.modules()))):
        ways.append(copy.deepcopy(model).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    for way in ways:
        masks.apply_(way)
        if model.training:
            hold(way, masks)
    return ways


def _rounded(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = RoundedLinear
    return model


def _call(model: nn.Module, x: Tensor, mode: str) -> Callable[[], object]:
    return partial(_train if mode == "training" else _infer, model, x)


def _infer(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def _train(model: nn.Module, x: Tensor) -> None:
    y = model(x)
    (y if isinstance(y, Tensor) else y[0]).sum().backward()


def _short(model: nn.Module) -> str:
    return " ".join(str(model).split())[:90]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, for each comparison")
    parser.add_argument("--autocast", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every case to FILE")
    parser.add_argument("--transformers", action="store_true", help="attention, Conv1D and encoder layers instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads, kernels: {door.isa()}, torch {torch.__version__}, seed {args.seed}")
    rng, cases = random.Random(args.seed), []
    for number in range(args.cases):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.autocast):
            case = run(rng, args.seconds, TRANSFORMERS if args.transformers else KINDS)
        cases.append(case)
        if case.fails:
            print(f"case {number}: {case.ratio:.2f} × dense (± {case.spread:.0%}): {case}", flush=True)
    ratios = sorted(case.ratio for case in cases)
    failed, gained = sum(case.fails for case in cases), sum(ratio < 0.95 for ratio in ratios)
    print(
        f"{len(cases)} cases: {failed} slower than {LIMIT} × the best dense way, {gained} faster; ratio: least "
        f"{ratios[0]:.3f}, median {median(ratios):.3f}, 95th of a hundred {ratios[int(0.95 * (len(ratios) - 1))]:.3f}, "
        f"largest {ratios[-1]:.3f}"
    )
    if args.json:
        args.json.write_text(json.dumps([asdict(case) for case in cases], indent=1), encoding="utf-8")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
