"""A small language model, trained here and pruned without labels: perplexity by method, density and pattern.

    SECATEUR_DATA=DIR python benchmarks/language_model.py [--width 192 --layers 6 --steps 1500] [--keep FILE]

A decoder over the letters of Tiny Shakespeare (found as the library finds data sets), trained on the first nine tenths.
Pruned block by block on 128 windows of those, without retraining; perplexity per letter is measured on the last tenth.
`--keep` saves the trained weights, and takes them from there the next time.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import methods, repairs, scope
from secateur.axes import Method
from secateur.lab.language import batches_of, perplexity, windows

CONTEXT = 128


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and beside the stream."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Letters(nn.Module):
    """A decoder over letters."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.head(self.norm(x)))


def text() -> tuple[Tensor, int]:
    """The text as numbers of letters."""
    file = Path(os.environ["SECATEUR_DATA"]) / "tinyshakespeare" / "input.txt"
    letters = file.read_text(encoding="utf-8")
    numbers = {letter: number for number, letter in enumerate(sorted(set(letters)))}
    return torch.tensor([numbers[letter] for letter in letters]), len(numbers)


def train(model: nn.Module, ids: Tensor, steps: int, batch: int = 16) -> None:
    """AdamW with a warm-up and half a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    drawn, begin = torch.Generator().manual_seed(0), time.perf_counter()
    for step in range(steps):
        rate = min(1.0, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        starts = torch.randint(len(ids) - CONTEXT - 1, (batch,), generator=drawn)
        rows = torch.stack([ids[start : start + CONTEXT + 1] for start in starts.tolist()])
        loss = F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - begin:.0f} s", flush=True)


def made(name: str, density: float, pattern: tuple[int, int] | None) -> Method:
    fixed = None if pattern is None else scope.n_of_m(*pattern)
    trained = repairs.then(repairs.sweep(), repairs.tuned(100, learning_rate=5e-4))
    return {
        "magnitude": lambda: methods.magnitude(density, scope=fixed or scope.layerwise()),
        "wanda": lambda: methods.wanda(density, scope=fixed),
        "sparsegpt": lambda: methods.sparsegpt(density, pattern=pattern),
        "obc": lambda: methods.obc(density, pattern=pattern),
        "sparsegpt, trained": lambda: methods.sparsegpt(density, pattern=pattern, repair=trained),
    }[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    ids, vocabulary = text()
    first, last = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    torch.manual_seed(0)
    model = Letters(vocabulary, args.width, args.layers)
    if args.keep and args.keep.exists():
        model.load_state_dict(torch.load(args.keep, weights_only=True))
    else:
        train(model, first, args.steps)
        if args.keep:
            torch.save(model.state_dict(), args.keep)
    model.eval()
    seen = batches_of(windows(first, length=CONTEXT, count=128, vocabulary=vocabulary), size=16)
    other = windows(last, length=CONTEXT, count=256, vocabulary=vocabulary)
    weights = sum(p.numel() for p in model.parameters())
    print(f"{weights:,} weights, dense: perplexity {perplexity(model, other, size=16):.3f}")
    print("| method | 50 % | 60 % removed | 70 % removed | 2:4 | seconds |\n|---|---|---|---|---|---|")
    for name in ("magnitude", "wanda", "sparsegpt", "obc", "sparsegpt, trained"):
        found, begin = [], time.perf_counter()
        for density, pattern in ((0.5, None), (0.4, None), (0.3, None), (0.5, (2, 4))):
            pruned = copy.deepcopy(model)
            sc.prune(pruned, made(name, density, pattern), seen, blocks="blocks.*")
            found.append(f"{perplexity(pruned, other, size=16):.2f}")
        print(f"| {name} | {' | '.join(found)} | {time.perf_counter() - begin:.0f} |", flush=True)


if __name__ == "__main__":
    main()
