"""How much faster masked transformer blocks run and train when only the surviving weights are computed.

    python benchmarks/transformer_blocks.py [--quick] [--json FILE] [--threads N] [--seconds S] [--own-time]
        [--masks magnitude] [--blocks bert gpt2] [--densities 0.5 0.1] [--modes inference]

Blocks of BERT-base and GPT-2 small (768 features, 12 heads, 3072 inside; GPT-2's of `Conv1D`, which keeps its weights
inputs first) and torch's own `nn.TransformerEncoderLayer` of that size, at 8 × 128 tokens. For each block, density
and mode, in one run and interleaved: dense float32 (torch, and linear layers through oneDNN), dense bfloat16
(`torch.autocast`, and `model.bfloat16()`), and `sparsify` with `example_inputs`, in float32, under `torch.autocast`,
and of `model.bfloat16()`. Training is forward, backward and AdamW in an ordinary loop, without holding the dense
model's zeros. Figures are medians; ratios are formed inside the run only. On a machine that others use, --threads 1
--own-time counts the time that the processor spends on this thread.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _common import add_own_time, clock_of, milliseconds, options, through_onednn, where, write
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from secateur import Masks, sparsify
from secateur._base import door
from secateur.sparse import report_of
from secateur.sparse.timing import interleaved

SIZE, HEADS, INNER = 768, 12, 3072
SAMPLES, TOKENS = 8, 128
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
TURN = 0.03  # seconds of one candidate's turn, as in sparse_training.py
FLOAT32, BFLOAT16 = ("torch", "oneDNN"), ("autocast", "bfloat16")
OURS = ("sparsify", "sparsify, autocast", "sparsify, bfloat16")


# ------------------------------------------------------------------ the blocks
class Conv1D(nn.Module):
    """As in transformers: y = x W + b, W [inputs, outputs]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(0.02 * torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class Bert(nn.Module):
    """A layer of BERT's encoder, without dropout: six linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(SIZE, SIZE) for _ in range(4))
        self.up, self.down = nn.Linear(SIZE, INNER), nn.Linear(INNER, SIZE)
        self.norm1, self.norm2 = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.out(attend(self.query(x), self.key(x), self.value(x), causal=False)))
        return self.norm2(x + self.down(gelu(self.up(x))))


class Gpt2(nn.Module):
    """A block of GPT-2, without dropout: four `Conv1D`."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)
        self.c_attn, self.c_proj = Conv1D(3 * SIZE, SIZE), Conv1D(SIZE, SIZE)
        self.c_fc, self.c_down = Conv1D(INNER, SIZE), Conv1D(SIZE, INNER)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).chunk(3, -1)
        x = x + self.c_proj(attend(q, k, v, causal=True))
        return x + self.c_down(gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


def torchs_own() -> nn.Module:
    return nn.TransformerEncoderLayer(SIZE, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True)


BLOCKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "bert": ("BERT-base", Bert),
    "gpt2": ("GPT-2 small, `Conv1D`", Gpt2),
    "torch": ("`nn.TransformerEncoderLayer`", torchs_own),
}


def masks_of(model: nn.Module, density: float, kind: str) -> Masks:
    """Keep this share of each matrix: at random, or of the largest magnitude."""
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            score = torch.rand(parameter.shape, generator=generator) if kind == "random" else parameter.detach().abs()
            kept = score.flatten().topk(round(density * score.numel())).indices
            masks[name] = torch.zeros(score.numel(), dtype=torch.bool).index_fill_(0, kept, True).view(score.shape)
    return Masks(masks)


# ------------------------------------------------------------------ measuring
@dataclass(frozen=True)
class Result:
    """Median seconds of everything that was measured for one block, density and mode."""

    block: str
    mode: str
    density: float
    times: dict[str, float]
    choices: dict[str, str]  # of each sparsified model, for its weights in order

    def ratio(self, name: str) -> str:
        """Format the speed-up of one of ours over the best float32 and over the best bfloat16."""
        best = [min(t for n, t in self.times.items() if n in kind) for kind in (FLOAT32, BFLOAT16)]
        return " / ".join(f"{b / self.times[name]:.2f}" for b in best)


def cast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def inference(model: nn.Module, x: Tensor, around: Callable[[], Any]) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad(), around():
            model(x)

    return run


def training(model: nn.Module, x: Tensor, around: Callable[[], Any]) -> Callable[[], object]:
    optimizer, target = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), torch.zeros_like(x)

    def step() -> None:
        optimizer.zero_grad()
        with around():
            loss = nn.functional.mse_loss(model(x).to(x.dtype), target)
        loss.backward()
        optimizer.step()

    return step


def measure(block: str, density: float, mode: str, kind: str, seconds: float, clock: Callable[[], float]) -> Result:
    """Measure everything for one block, density and mode."""
    torch.manual_seed(0)
    title, build = BLOCKS[block]
    base = build().train(mode == "training")
    x = torch.randn(SAMPLES, TOKENS, SIZE)
    masks = masks_of(base, density, kind)
    plain = copy.deepcopy(base)
    masks.apply_(plain)
    fast = sparsify(base, masks, example_inputs=x)
    with cast():
        faster = sparsify(base, masks, example_inputs=x)
    half = sparsify(copy.deepcopy(base).bfloat16(), masks, example_inputs=x.bfloat16())
    call = training if mode == "training" else inference
    calls = {
        "torch": call(copy.deepcopy(plain), x, nullcontext),
        "oneDNN": call(through_onednn(copy.deepcopy(plain)), x, nullcontext),
        "autocast": call(copy.deepcopy(plain), x, cast),
        "bfloat16": call(copy.deepcopy(plain).bfloat16(), x.bfloat16(), nullcontext),
        "sparsify": call(fast, x, nullcontext),
        "sparsify, autocast": call(faster, x, cast),
        "sparsify, bfloat16": call(half, x.bfloat16(), nullcontext),
    }
    times = interleaved(calls, seconds=seconds, sample=TURN, clock=clock)
    chosen = {
        name: " ".join(line.choice.value.split()[0] for line in report_of(model).layers)
        for name, model in zip(OURS, (fast, faster, half), strict=True)
    }
    return Result(title, mode, density, times, chosen)


def table(results: list[Result]) -> str:
    """Speed-ups over the best dense float32 / over the best dense bfloat16."""
    densities = sorted({r.density for r in results}, reverse=True)
    lines = ["| over best float32 / over best bfloat16 | " + " | ".join(f"{d:.0%} kept" for d in densities) + " |"]
    lines.append("|---|" + "---|" * len(densities))
    for block, mode in dict.fromkeys((r.block, r.mode) for r in results):
        own = {r.density: r for r in results if (r.block, r.mode) == (block, mode)}
        for name in OURS:
            cells = " | ".join(own[d].ratio(name) if d in own else "–" for d in densities)
            lines.append(f"| {block}, {mode}, {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and the times behind it, write JSON."""
    parser = options(__doc__, quick="BERT's block at 10 %% only, inference, one second")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--modes", nargs="+", choices=("inference", "training"), default=("inference", "training"))
    parser.add_argument("--masks", choices=("random", "magnitude"), default="random")
    add_own_time(parser)
    args = parser.parse_args()
    clock = clock_of(parser, args)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse.* computes densely")  # bfloat16 without kernels for it
    chosen = (args.blocks, args.densities, args.modes, args.seconds)
    blocks, densities, modes, seconds = (["bert"], [0.1], ["inference"], 1.0) if args.quick else chosen
    results = [measure(b, d, mode, args.masks, seconds, clock) for b in blocks for mode in modes for d in densities]
    print(f"{where(args)}, kernels: {door.isa()}; {args.masks} masks, {SAMPLES} × {TOKENS} tokens\n")
    print(table(results), end="\n\n")
    for r in results:
        print(milliseconds(f"{r.block}, {r.mode}, {r.density:.0%}", r.times, digits=1), r.choices)
    write(args, results=[asdict(r) for r in results])


if __name__ == "__main__":
    main()
