"""SparseGPT's column sweep against a plain torch rendering of the published algorithm, side by side.

    python benchmarks/column_sweep.py --outputs 4096 --inputs 4096
    python benchmarks/column_sweep.py --outputs 4096 --inputs 11008 --rounds 1

Both at float32, 50 % kept, blocks of 128, on the same weights and second moments. Seconds are medians of the rounds, in
turns: of the sweep alone, and of all of it, the inverse and its factor included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from secateur.repairs import column_sweep, damped, inverse_factor
from secateur.sparse.timing import processor


def plain_factor(gram: Tensor) -> Tensor:
    moments = gram.clone()
    moments.diagonal().add_(0.01 * moments.diagonal().mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)


def plain_sweep(weight: Tensor, factor: Tensor) -> Tensor:
    """The algorithm as it is published: one column after the other, the rest of the block updated after each."""
    w = weight.clone()
    inputs = w.shape[1]
    for first in range(0, inputs, 128):
        last = min(first + 128, inputs)
        block, out = w[:, first:last].clone(), torch.zeros(w.shape[0], last - first)
        errors, own = torch.zeros_like(out), factor[first:last, first:last]
        scores = block**2 / own.diagonal().reshape(1, -1) ** 2
        threshold = scores.flatten().sort()[0][int(scores.numel() * 0.5)]
        cut = scores <= threshold
        for j in range(last - first):
            column = block[:, j]
            kept = column.clone()
            kept[cut[:, j]] = 0
            out[:, j] = kept
            error = (column - kept) / own[j, j]
            block[:, j:] -= error.unsqueeze(1).matmul(own[j, j:].unsqueeze(0))
            errors[:, j] = error
        w[:, first:last] = out
        w[:, last:] -= errors.matmul(factor[first:last, last:])
    return w


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=4096)
    parser.add_argument("--inputs", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    weight = torch.randn(options.outputs, options.inputs)
    x = torch.randn(options.inputs, 2 * options.inputs // 3) + torch.randn(options.inputs, 1)
    gram = x @ x.T
    factor = inverse_factor(damped(gram)[0].float())
    calls: dict[str, Callable[[], object]] = {
        "plain sweep": lambda: plain_sweep(weight, factor),
        "our sweep": lambda: column_sweep(weight, factor),
        "plain whole": lambda: plain_sweep(weight, plain_factor(gram)),
        "our whole": lambda: column_sweep(weight, inverse_factor(damped(gram)[0].float())),
    }
    found = timed(calls, options.rounds)
    print(f"{options.outputs} outputs × {options.inputs} inputs, {torch.get_num_threads()} threads, {processor()}\n")
    print("| | plain, s | ours, s | ratio |\n|---|---|---|---|")
    for what in ("sweep", "whole"):
        plain, ours = found[f"plain {what}"], found[f"our {what}"]
        print(f"| {what} | {plain:.2f} | {ours:.2f} | {ours / plain:.2f} |")
    lost = {name: float(((made - weight) @ x).square().sum()) for name, made in outcomes(weight, factor).items()}
    print(
        "\nloss of the outputs, over magnitude's: " + ", ".join(f"{n} {lost[n] / lost['magnitude']:.3f}" for n in lost)
    )


def outcomes(weight: Tensor, factor: Tensor) -> dict[str, Tensor]:
    threshold = weight.abs().flatten().kthvalue(weight.numel() // 2).values
    magnitude = torch.where(weight.abs() > threshold, weight, 0.0)
    return {"magnitude": magnitude, "plain": plain_sweep(weight, factor), "ours": column_sweep(weight, factor)[0]}


if __name__ == "__main__":
    main()
