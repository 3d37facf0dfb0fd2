"""Sparse convolutions, recurrent layers and VGG-like at large batches: samples a second, against the best batch.

    python benchmarks/large_batches_layers.py --threads 2

The last column is the rate of the largest batch over the best: 1 means that size costs nothing. Tensors of more than
32 MB come from the operating system page by page at each call, which costs a dense layer the same; with
MALLOC_MMAP_THRESHOLD_=100000000000 MALLOC_TRIM_THRESHOLD_=1000000000000 in the environment their pages are used again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from _common import options, where, write
from torch import Tensor, nn

from secateur import Masks, sparsify
from secateur._base import door
from secateur.lab.models import build
from secateur.sparse import BreakEven, Machine
from secateur.sparse.layers import sparse_convolution, sparse_recurrent
from secateur.sparse.timing import interleaved

SPARSE = Machine("always sparse", False, (BreakEven(64, 128, 2.0),), convolution=2.0)
CONVOLUTIONS = ((64, 64, 3, 32), (128, 128, 3, 16), (512, 512, 3, 4), (256, 1024, 1, 14))
DENSITIES = (0.1, 0.02)


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def both(model: nn.Module, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    y = model(x)
    y = y if isinstance(y, Tensor) else y[0]
    torch.autograd.grad(y, [x, *model.parameters()], torch.ones_like(y))


def random_masks(model: nn.Module, density: float) -> dict[str, Tensor]:
    return {name: torch.rand(p.shape) < density for name, p in model.named_parameters() if p.dim() > 1}


def candidates(density: float) -> dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]]:
    """Each model, the shape of a sample, and the batches."""
    found: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {}
    for inputs, outputs, kernel, side in CONVOLUTIONS:
        dense = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        layer = sparse_convolution(dense, torch.rand(dense.weight.shape) < density)
        found[f"{inputs} → {outputs}, {kernel}×{kernel}, {side} × {side}"] = layer, (inputs, side, side), (16, 32, 256)
    for kind in (nn.LSTM, nn.GRU):
        recurrent = kind(256, 512, batch_first=True)
        layer = sparse_recurrent(recurrent, random_masks(recurrent, density))
        found[f"{kind.__name__} 256 → 512, 20 steps"] = layer, (20, 256), (64, 128, 2048)
    network = build("vgg-like", generator=torch.Generator().manual_seed(0))
    fast = sparsify(network, Masks(random_masks(network, density)), machine=SPARSE).eval()
    return found | {"VGG-like, evaluation": (fast, (3, 32, 32), (16, 32, 256))}


def main() -> None:
    parser = options(__doc__, quick="batches of 2 and 4, next to no time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{where(args)}, kernels: {door.isa()}; random masks\n")
    print("| layer | kept | pass | batches | samples/s | largest over best |\n|---|---|---|---|---|---|")
    found = []
    passes: dict[str, Callable[[nn.Module, Tensor], None]] = {"forward": forward, "with gradients": both}
    for density in DENSITIES[:1] if args.quick else DENSITIES:
        for name, (model, shape, sizes) in candidates(density).items():
            batches = (2, 4) if args.quick else sizes
            for label, run in passes.items():
                calls = {f"{n}": partial(run, model, torch.randn(n, *shape)) for n in batches}
                seconds = interleaved(calls, seconds=0.01 if args.quick else args.seconds, statistic=min)
                rates = [n / seconds[f"{n}"] for n in batches]
                found.append({"name": f"{name} {label}", "density": density, "seconds": seconds})
                cells = [", ".join(map(str, batches)), ", ".join(f"{rate:,.0f}" for rate in rates)]
                cells.append(f"{rates[-1] / max(rates):.2f}")
                print(f"| {name} | {density:.0%} | {label} | {' | '.join(cells)} |", flush=True)
    write(args, rows=found)


if __name__ == "__main__":
    main()
