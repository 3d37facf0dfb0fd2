"""ResNet-50 (He et al., arXiv 1512.03385) pruned to a uniform density: inference for latency, whole and by layer.

    python benchmarks/resnet50.py [--quick] [--json FILE] [--threads N] [--seconds S] [--batch N]
                                  [--densities D …] [--layers-only | --whole-only]

Two tables, each measured in one run and interleaved. The whole model: torch's float32, channels-last too, against
`sparsify(model.eval(), masks, example_inputs=…)`. Its layers: each distinct convolution on its own, the best dense way
against `SparseConv2d`. Masks are random: what is measured is time. Weights are random too; torchvision is not needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from _common import head, milliseconds, options, where, write
from torch import Tensor, nn

from secateur import Masks
from secateur._base import door
from secateur.sparse import report_of, sparsify
from secateur.sparse.layers import sparse_convolution
from secateur.sparse.timing import interleaved

DENSITIES = (0.2, 0.1, 0.05)
SIDE = 224


# ------------------------------------------------------------------ the network
class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolutions, added to the input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or inputs != 4 * width
        projection = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
        self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def resnet50(classes: int = 1000) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def random_masks(model: nn.Module, density: float) -> Masks:
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    return Masks({name: torch.rand(p.shape) < density for name, p in weights.items()})


# ------------------------------------------------------------------ measuring
@dataclass(frozen=True)
class Row:
    """Seconds of one network or layer at one density: the best dense way first."""

    name: str
    density: float
    seconds: dict[str, float]

    @property
    def gain(self) -> float:
        return min(t for name, t in self.seconds.items() if name != "ours") / self.seconds["ours"]


def runner(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def dense_ways(model: nn.Module, x: Tensor) -> dict[str, Callable[[], None]]:
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {"stock": runner(model, x), "channels last": runner(moved, x.to(memory_format=torch.channels_last))}


def whole(density: float, batch: int, side: int, seconds: float) -> Row:
    model, x = resnet50().eval(), torch.randn(batch, 3, side, side)
    masks = random_masks(model, density)
    masks.apply_(model)
    fast = sparsify(model, masks, example_inputs=x)
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), rtol=1e-3, atol=1e-4)
    found = Row("ResNet-50", density, interleaved(dense_ways(model, x) | {"ours": runner(fast, x)}, seconds=seconds))
    choices = [line.choice.value for line in report_of(fast).layers]
    counts = ", ".join(f"{choices.count(choice)} {choice}" for choice in dict.fromkeys(choices))
    print(milliseconds(f"{density:.0%} kept, {counts}", found.seconds, digits=2), flush=True)
    return found


def layers_of(model: nn.Module, side: int) -> dict[str, tuple[nn.Conv2d, tuple[int, ...], int]]:
    """Each distinct convolution by what it is, with the shape of its input and how often it occurs."""
    found: dict[str, tuple[nn.Conv2d, tuple[int, ...], int]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        assert isinstance(module, nn.Conv2d)
        shape, kernel = tuple(inputs[0].shape[1:]), module.kernel_size[0]
        stride = f" / {module.stride[0]}" if module.stride[0] > 1 else ""
        name = f"{module.in_channels} → {module.out_channels}, {kernel}×{kernel}{stride}, {shape[1]} × {shape[2]}"
        found[name] = (module, shape, found[name][2] + 1 if name in found else 1)

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(torch.randn(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found


def layer(name: str, dense: nn.Conv2d, x: Tensor, densities: Sequence[float], seconds: float) -> list[Row]:
    calls = dense_ways(dense, x)
    for density in densities:
        calls[f"{density}"] = runner(sparse_convolution(dense, torch.rand(dense.weight.shape) < density), x)
    times = interleaved(calls, seconds=seconds)
    ways = {way: times[way] for way in ("stock", "channels last")}
    return [Row(name, density, {**ways, "ours": times[f"{density}"]}) for density in densities]


def main() -> None:
    parser = options(__doc__, quick="one density, images of 32 × 32, next to no time")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument("--layers-only", action="store_true")
    parser.add_argument("--whole-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    side, densities, seconds = (32, [0.1], 0.02) if args.quick else (SIDE, args.densities, args.seconds)
    print(f"{where(args)}, kernels: {door.isa()}; random masks and weights, batch {args.batch}\n")
    rows: list[Row] = []
    layers: list[Row] = []
    if not args.layers_only:
        rows = [whole(density, args.batch, side, seconds) for density in densities]
        print("\n".join(["", *head("inference", densities)]))
        print(f"| over the best dense | {' | '.join(f'{row.gain:.2f}' for row in rows)} |\n")
    if not args.whole_only:
        print("\n".join(head("layer (how many), best dense [ms]", densities)))
        for name, (module, shape, count) in layers_of(resnet50().eval(), side).items():
            found = layer(name, module, torch.randn(args.batch, *shape), densities, seconds / 8)
            best = 1e3 * min(found[0].seconds["stock"], found[0].seconds["channels last"])
            print(f"| {name} ({count}), {best:.2f} | {' | '.join(f'{row.gain:.2f}' for row in found)} |", flush=True)
            layers += found
    write(args, whole=[asdict(row) for row in rows], layers=[asdict(row) for row in layers])


if __name__ == "__main__":
    main()
