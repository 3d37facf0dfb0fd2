"""How much faster masked LSTM and GRU classifiers train and run when only the surviving weights are computed.

    python benchmarks/sparse_recurrent.py [--quick] [--json FILE] [--threads N] [--compile] [--seconds S] [--own-time]

The networks of SNIP's paper that read an image row by row: a linear projection 28 → h at each of 28 steps, one LSTM
or GRU h → h, a linear classifier of the last state; batch 100. For each network and density, in one run and
interleaved: stock torch eager, other ways to run it densely (without oneDNN; linear layers through oneDNN; with
--compile also torch.compile), `sparsify` in an ordinary loop with torch.optim, and the fused step. Masks are SNIP's,
from one batch of MNIST where it is found, else of the digits. Figures are medians; ratios are formed
inside the run only. On a machine that others use, --threads 1 --own-time counts the time that the processor spends
on this thread.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from _common import add_own_time, clock_of, head, loop, milliseconds, options, say_where, sgd, through_onednn, write
from sparse_training import images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur._base import door
from secateur.lab.models import build
from secateur.sparse import compile_step, sparsify
from secateur.sparse.timing import interleaved

NETS = {"lstm-s": "LSTM-128", "lstm-b": "LSTM-256", "gru-s": "GRU-128"}
DENSITIES = (0.10, 0.05, 0.02, 0.01)
BATCH, STEPS = 100, 28
OURS = ("module", "fused")


@dataclass(frozen=True)
class Result:
    """Median seconds of everything that was measured for one network and density."""

    net: str
    density: float
    training: dict[str, float]
    inference: dict[str, float]
    one_image: dict[str, float]
    training_flops: float  # of the surviving weights in one step

    def ratio(self, kind: str, name: str) -> str:
        """Format the speed-up over stock and over the best dense."""
        times: dict[str, float] = getattr(self, kind)
        if name not in times:
            return "–"
        best = min(t for n, t in times.items() if n not in OURS)
        return f"{times['stock'] / times[name]:.1f} / {best / times[name]:.1f}"


class WithoutOneDnn(nn.Module):
    """The same network with torch's own recurrent kernels where it would take oneDNN's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return self.net(x)


def measure(name: str, density: float, seconds: float, compiled: bool, clock: Callable[[], float]) -> Result:
    """Measure everything for one network and density."""
    flat, y, _ = images(BATCH)
    x = flat.view(BATCH, 1, 28, 28)
    base = build(name, generator=torch.Generator().manual_seed(0))
    masks = sc.prune(base, sc.methods.snip(density=density), batches=[(x, y)])
    dense: dict[str, nn.Module] = {
        "stock": copy.deepcopy(base),
        "without oneDNN": WithoutOneDnn(copy.deepcopy(base)),
        "linear in oneDNN": through_onednn(copy.deepcopy(base)),
    }
    if compiled:
        dense["torch.compile"] = torch.compile(copy.deepcopy(base))  # type: ignore[assignment]
    models = dense | {"module": sparsify(base, masks, example_inputs=x)}
    training: dict[str, Callable[[], object]] = {n: loop(m, x, y) for n, m in models.items()}
    inference: dict[str, Callable[[], object]] = {n: (lambda m=m: m(x)) for n, m in models.items()}
    one: dict[str, Callable[[], object]] = {n: (lambda m=m: m(x[:1])) for n, m in models.items()}
    if door.native is not None:
        model = copy.deepcopy(base)
        step = compile_step(model, masks, cross_entropy, sgd(model))
        training["fused"] = lambda: step(x, y)
        inference["fused"] = lambda: step.predict(x)
        one["fused"] = lambda: step.predict(x[:1])
    trained = interleaved(training, seconds=seconds, clock=clock)
    with torch.no_grad():
        inferred = interleaved(inference, seconds=seconds / 2, clock=clock)
        single = interleaved(one, seconds=seconds / 4, clock=clock)
    kept = {layer.name: layer.kept for layer in masks.layers()}
    cell = sum(count for layer, count in kept.items() if layer.startswith("cell"))
    # Forward, and the gradients of weights and inputs; the projection needs none of its inputs, the head one step.
    flops = 2.0 * BATCH * (STEPS * (3 * cell + 2 * kept["project.weight"]) + 3 * kept["head.weight"])
    return Result(name, density, trained, inferred, single, flops)


def table(results: list[Result]) -> str:
    """Speed-ups over stock / over the best dense."""
    densities = sorted({r.density for r in results}, reverse=True)
    rows = [
        ("training, fused step", "training", "fused"),
        ("training, `sparsify` + torch.optim", "training", "module"),
        ("inference, batch 100, fused", "inference", "fused"),
        ("inference, batch 100, `sparsify`", "inference", "module"),
        ("inference, one image, fused", "one_image", "fused"),
        ("inference, one image, `sparsify`", "one_image", "module"),
    ]
    lines = head("speed-up over stock / over best dense", densities)
    for net in dict.fromkeys(r.net for r in results):
        own = {r.density: r for r in results if r.net == net}
        for label, kind, name in rows:
            cells = " | ".join(own[d].ratio(kind, name) for d in densities)
            lines.append(f"| {NETS[net]}, {label} | {cells} |")
    return "\n".join(lines)


def times_behind(results: list[Result]) -> str:
    """The times behind the table."""
    lines = []
    for r in results:
        for kind in ("training", "inference", "one_image"):
            label = f"{NETS[r.net]} {1 - r.density:.0%} {kind.replace('_', ' ')}"
            lines.append(milliseconds(label, getattr(r, kind)))
        if "fused" in r.training:
            rate = r.training_flops / r.training["fused"] / 1e9
            lines.append(f"{NETS[r.net]} {1 - r.density:.0%} fused: {rate:.0f} GFLOP/s on surviving weights")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = options(__doc__, quick="LSTM-128 at 95 %% only, one second")
    add_own_time(parser)
    args = parser.parse_args()
    clock = clock_of(parser, args)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # from asking torch to leave oneDNN out
    nets, densities = (["lstm-s"], (0.05,)) if args.quick else (list(NETS), DENSITIES)
    seconds = 1.0 if args.quick else args.seconds
    results = [measure(net, density, seconds, args.compile, clock) for net in nets for density in densities]
    say_where(args, images(1)[2])
    print(table(results), end="\n\n")
    print(times_behind(results))
    write(args, results=[asdict(r) for r in results])


if __name__ == "__main__":
    main()
