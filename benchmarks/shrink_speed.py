"""ResNet-50 with half of its multiplications: shrunk, beside one that was built with those widths from the start.

    python benchmarks/shrink_speed.py                       # batch 1 and 8, one and two threads
    python benchmarks/shrink_speed.py --keep 0.5 --batches 1 32 --threads 2

Dense, shrunk and built by hand take turns in one run; the medians of what a forward took, in eval mode, 224 x 224. Both
small ones have the same layers and shapes, so they should take the same time.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from coupling import Bottleneck, resnet50
from torch import Tensor, nn

import secateur as sc
from secateur.sparse.timing import processor


def by_hand(small: nn.Module) -> nn.Module:
    """A fresh ResNet-50 whose layers have the widths of `small`: only torch's own constructors."""
    model, _ = resnet50()
    for name, layer in list(model.named_modules()):
        like = small.get_submodule(name)
        made: nn.Module | None = None
        if isinstance(layer, nn.Conv2d) and isinstance(like, nn.Conv2d):
            size, stride, padding = layer.kernel_size, layer.stride, layer.padding
            made = nn.Conv2d(like.in_channels, like.out_channels, size, stride, padding, bias=False)  # pyright: ignore[reportArgumentType]
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(like, nn.BatchNorm2d):
            made = nn.BatchNorm2d(like.num_features)
        elif isinstance(layer, nn.Linear) and isinstance(like, nn.Linear):
            made = nn.Linear(like.in_features, like.out_features)
        if made is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made)
    return model.eval()


@torch.inference_mode()
def in_turns(models: dict[str, nn.Module], x: Tensor, seconds: float) -> dict[str, float]:
    took: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took["dense"]) < 4:
        for name, model in models.items():
            begin = time.perf_counter()
            model(x)
            took[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(values[1:]) for name, values in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--of", default="macs")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    dense, inputs = resnet50()
    dense.eval()
    small, certificate, _ = sc.shrink(dense, options.keep, inputs, of=options.of)
    print(f"ResNet-50, {options.keep:.0%} of the {options.of}, {processor()}\n\n{certificate}\n")
    models = {"dense": dense, "shrunk": small.eval(), "by hand": by_hand(small)}
    assert sum(isinstance(m, Bottleneck) for m in small.modules()) == 16
    print("| threads | batch | dense, ms | shrunk, ms | by hand, ms | shrunk, faster | by hand, faster | share |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch in options.batches:
            ms = in_turns(models, torch.randn(batch, 3, 224, 224), options.seconds)
            own, hand = ms["dense"] / ms["shrunk"], ms["dense"] / ms["by hand"]
            figures = f"{ms['dense']:.1f} | {ms['shrunk']:.1f} | {ms['by hand']:.1f} | {own:.2f} | {hand:.2f}"
            print(f"| {threads} | {batch} | {figures} | {own / hand:.2f} |", flush=True)


if __name__ == "__main__":
    main()
