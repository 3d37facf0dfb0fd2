"""Sparse linear layers in bfloat16 against the best dense ways that torch has, in float32 and in bfloat16.

    python benchmarks/half_precision.py --seconds 6

Dense: torch and oneDNN in float32, `torch.autocast` with float32 weights, and a model whose weights are bfloat16; the
best bfloat16 is the faster of the last two. Sparse: a `SparseLinear` under autocast, with float32 masters: by the
bfloat16 kernels, and by the float32 kernels of `sparsify` for comparison. Training is forward and both gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _common import by_layer, where
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse import SparseLinear
from secateur.sparse.calls import in_float32
from secateur.sparse.layers import OneDnnLinear, onednn_available
from secateur.sparse.timing import interleaved

SHAPES = ((768, 3072), (3072, 768), (4096, 4096))  # inputs, outputs
BATCHES = (1, 8, 128, 1024)
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
TURN = 0.02  # seconds of one way's turn, with its own data in the caches as in a loop of its own
Layer = Callable[[Tensor], Tensor]


def infer(layer: Layer, x: Tensor, cast: bool) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
        layer(x)


def train(layer: Layer, parameters: list[Tensor], x: Tensor, cast: bool) -> None:
    x = x.detach().requires_grad_()
    if isinstance(layer, SparseLinear):
        layer.round_anew()  # as at each step of a training, whose values have changed
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y = layer(x)
    torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))


def dense_ways(layer: nn.Linear) -> dict[str, tuple[nn.Module, bool]]:
    """Return each dense way's layer, and whether it runs under autocast."""
    ways: dict[str, tuple[nn.Module, bool]] = {"float32": (layer, False)}
    if onednn_available():
        ways["float32 through oneDNN"] = (OneDnnLinear.from_dense(layer), False)
    half = nn.Linear(layer.in_features, layer.out_features).bfloat16()
    return ways | {"autocast": (layer, True), "bfloat16": (half, False)}


def sparse_ways(layer: nn.Linear, density: float) -> dict[str, tuple[Layer, list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    sparse = SparseLinear.from_dense(layer, torch.rand(layer.weight.shape, generator=generator) < density)
    ways: dict[str, tuple[Layer, list[Tensor]]] = {f"{density:.0%} bfloat16": (sparse, list(sparse.parameters()))}
    if density <= 0.1:  # above, the float32 kernels are far behind
        ways[f"{density:.0%} float32"] = in_float32(sparse._sparsely, torch.bfloat16), list(sparse.parameters())
    return ways


def calls_for(layer: nn.Linear, x: Tensor) -> dict[str, Callable[[], None]]:
    calls: dict[str, Callable[[], None]] = {}
    for name, (way, cast) in dense_ways(layer).items():
        own = x.bfloat16() if name == "bfloat16" else x
        calls[f"{name}, inference"] = partial(infer, way, own, cast)
        calls[f"{name}, training"] = partial(train, way, list(way.parameters()), own, cast)
    for density in DENSITIES:
        for name, (way, parameters) in sparse_ways(layer, density).items():
            calls[f"{name}, inference"] = partial(infer, way, x.bfloat16(), True)
            calls[f"{name}, training"] = partial(train, way, parameters, x.bfloat16(), True)
    return calls


def rows_of(found: dict[str, float], size: str, batch: int) -> list[str]:
    lines = []
    for mode in ("inference", "training"):
        time = {name.removesuffix(f", {mode}"): 1e3 * t for name, t in found.items() if name.endswith(mode)}
        full = min(time["float32"], time.get("float32 through oneDNN", time["float32"]))
        half = min(time["autocast"], time["bfloat16"])
        cells = [size, f"{batch:,}", mode, f"{full:.2f}", f"{half:.2f}"]
        for density in DENSITIES:
            own = min(time[f"{density:.0%} bfloat16"], time.get(f"{density:.0%} float32", 1e9))
            cells.append(f"{time[f'{density:.0%} bfloat16']:.2f} ({full / own:.1f} / {half / own:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each shape and batch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--quick", action="store_true", help="64 wide, a twentieth of a second")
    args = parser.parse_args()
    if door.native is None:
        parser.error(f"there are no compiled kernels: {door.why_not}")
    torch.set_num_threads(args.threads)
    shapes, seconds = (((64, 64),), 0.05) if args.quick else (SHAPES, args.seconds)
    print(f"{where(args)}; bfloat16 through {door.native.half_set()}\n")
    print("Times in ms; in brackets how many times as fast as the best float32 / bfloat16, by the faster kernels.\n")
    heads = [
        "inputs → outputs",
        "samples",
        "mode",
        "best float32",
        "best bfloat16",
        *(f"{d:.0%} kept" for d in DENSITIES),
    ]

    def measure(layer: nn.Module, x: Tensor, label: str) -> tuple[object, str]:
        found = interleaved(calls_for(layer, x), seconds=seconds, sample=TURN)
        return found, "\n".join(rows_of(found, label, len(x)))

    by_layer(heads, shapes, BATCHES, measure, args.json)


if __name__ == "__main__":
    main()
