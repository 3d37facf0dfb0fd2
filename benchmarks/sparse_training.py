"""How much faster masked feed-forward networks train and run when only the surviving weights are computed.

    python benchmarks/sparse_training.py [--quick] [--json FILE] [--threads N] [--compile] [--seconds S]

For each network and density, in one run and interleaved: stock torch eager, the best dense found (oneDNN linear;
with --compile also torch.compile), dense bfloat16 (training by autocast, inference with bfloat16 weights),
`sparsify` in an ordinary loop with torch.optim, the fused step, the same with nothing pruned (which shows what is
owed to fusing), the time that reading the activations alone takes of sparse inference (the roofline), and peers
that are installed (SparseProp, torch CSR, scipy). Masks are SNIP's, from one batch of MNIST where it is found, else
of the handwritten digits. Figures are medians; ratios are formed inside the run only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _common import grown_digits, head, loop, milliseconds, options, say_where, settle, sgd, through_onednn, write
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur import Masks
from secateur._base import door
from secateur.lab.data import DataError, load
from secateur.sparse import compile_step, sparsify
from secateur.sparse.plans import native_chain, plan_layer
from secateur.sparse.timing import interleaved

DENSITIES = (0.10, 0.05, 0.02, 0.01)
# Seconds of one candidate's turn. Other candidates' threads spin for a while after their turn and leave their data in
# the caches: a turn must be long against that, for a training loop runs one way of computing only.
TURN = 0.03
DENSE = ("stock", "oneDNN", "torch.compile")
HALF = "autocast"
UNPRUNED = "fused, nothing pruned"
# What sparse inference reads of activations, by the threads and in the order of the kernels, and nothing else.
ROOFLINE = "reading alone"


@dataclass(frozen=True)
class Net:
    """A network of the table, and its batch."""

    name: str
    widths: tuple[int, ...]
    batch: int

    def build(self) -> nn.Sequential:
        """Make it, always with the same weights."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(self.widths, self.widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


NETS = (Net("LeNet-300-100", (784, 300, 100, 10), 100), Net("MLP-4096", (784, 4096, 4096, 10), 128))


@dataclass(frozen=True)
class Result:
    """Median seconds of everything that was measured for one network and density."""

    net: str
    batch: int
    density: float
    training: dict[str, float]
    inference: dict[str, float]
    bytes_ratio: float  # parameters and optimizer state of `sparsify` over dense
    training_flops: float  # of the surviving weights in one step

    def ratio(self, kind: str, name: str) -> str:
        """Format the speed-up over stock, over the best dense in float32, and over autocast to bfloat16."""
        times = self.training if kind == "training" else self.inference
        if name not in times:
            return "–"
        best = min(times[d] for d in DENSE if d in times)
        return " / ".join(f"{dense / times[name]:.1f}" for dense in (times["stock"], best, times[HALF]))


def images(count: int) -> tuple[Tensor, Tensor, str]:
    """Return one batch of flattened 28 × 28 images, their classes, and where they are from."""
    try:
        train = load("mnist", seed=0).train
        x, y = train.x[:count], train.y[:count]
        if not x.is_floating_point():
            x = (x.float() / 255 - 0.1307) / 0.3081
        return x.flatten(1).contiguous(), y.long().clone(), "MNIST"
    except DataError:
        grown, y = grown_digits(count)
        x = (nn.functional.pad(grown, (4, 4, 4, 4)) - 0.1307) / 0.3081
        return x.flatten(1).contiguous(), y, "the digits, 20 × 20 in 28 × 28"


def sparseprop_model(model: nn.Module) -> nn.Module | None:
    """SparseProp's modules in place of the linear layers, if it is installed."""
    try:
        from sparseprop.modules import SparseLinear as Peer
    except ImportError:
        return None
    return nn.Sequential(*[Peer.from_dense(m) if isinstance(m, nn.Linear) else m for m in model])


def csr_inference(model: nn.Sequential, x: Tensor) -> dict[str, Callable[[], object]]:
    """Torch's and scipy's CSR products, on feature-major activations, which is their best case."""
    linears = [m for m in model if isinstance(m, nn.Linear)]
    weights = [m.weight.detach().to_sparse_csr() for m in linears]
    biases = [m.bias.detach()[:, None] for m in linears]
    turned = x.t().contiguous()

    def run_torch() -> Tensor:
        z = turned
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = weight @ z + bias
            z = z.relu_() if i + 1 < len(weights) else z
        return z

    found: dict[str, Callable[[], object]] = {"torch CSR": run_torch}
    try:
        import scipy.sparse as sp
    except ImportError:
        return found
    arrays = [
        sp.csr_matrix((w.values().numpy(), w.col_indices().numpy(), w.crow_indices().numpy()), tuple(w.shape))
        for w in weights
    ]

    def run_scipy() -> Any:
        z = turned.numpy()
        for i, (array, bias) in enumerate(zip(arrays, biases, strict=True)):
            z = array @ z + bias.numpy()
            z = z.clip(0, None, out=z) if i + 1 < len(arrays) else z
        return z

    found["scipy CSR"] = run_scipy
    return found


def measure(net: Net, density: float, seconds: float, compiled: bool) -> Result:
    """Measure everything for one network and density."""
    x, y, _ = images(net.batch)
    base = net.build()
    masks: Masks = sc.prune(base, sc.methods.snip(density=density), batches=[(x, y)])
    dense = {"stock": net.build(), "oneDNN": through_onednn(net.build())}
    if compiled:
        dense["torch.compile"] = torch.compile(net.build())  # type: ignore[assignment]
    fast, half, rounded = sparsify(base, masks, example_inputs=x), net.build(), net.build().bfloat16()
    peer = sparseprop_model(copy.deepcopy(base))
    training = {name: loop(model, x, y) for name, model in dense.items()} | {
        "module": loop(fast, x, y),
        HALF: loop(half, x, y, cast=True),
    }
    if peer is not None:
        training["SparseProp"] = loop(peer, x, y)
    inference: dict[str, Callable[[], object]] = {n: (lambda m=m: m(x)) for n, m in (dense | {"module": fast}).items()}
    if peer is not None:
        inference["SparseProp"] = lambda: peer(x)
    inference |= csr_inference(base, x) | {HALF: lambda: rounded(x.bfloat16())}
    if door.native is not None:
        model = copy.deepcopy(base)
        step = compile_step(model, masks, cross_entropy, sgd(model))
        training["fused"] = lambda: step(x, y)
        unpruned = net.build()
        everything = Masks({name: torch.ones_like(mask) for name, mask in masks.items()})
        dense_step = compile_step(unpruned, everything, cross_entropy, sgd(unpruned))
        training[UNPRUNED] = lambda: dense_step(x, y)
        chain = native_chain(tuple(plan_layer(mask) for mask in masks.values())).native
        inference[ROOFLINE] = lambda: chain.read(net.batch, torch.get_num_threads())
    settle(*training.values())
    trained = interleaved(training, seconds=seconds, sample=TURN)
    with torch.no_grad():
        settle(*inference.values())
        inferred = interleaved(inference, seconds=seconds / 2, sample=TURN)
    numbers = sum(p.numel() for p in fast.parameters()) / sum(p.numel() for p in base.parameters())
    kept = [layer.kept for layer in masks.layers()]
    # Forward, gradient of the weights, and of the inputs but for the first layer's.
    flops = 2.0 * net.batch * (3 * sum(kept) - kept[0])
    return Result(net.name, net.batch, density, trained, inferred, numbers, flops)


def table(results: list[Result]) -> str:
    """The issue's table: speed-ups over stock / over the best dense."""
    densities = sorted({r.density for r in results}, reverse=True)
    rows = [
        ("{0}, batch {1}, fused step", "training", "fused"),
        ("{0}, batch {1}, fused step, nothing pruned", "training", UNPRUNED),
        ("{0}, batch {1}, `sparsify` + torch.optim", "training", "module"),
        ("{0}, batch {1}, SparseProp + torch.optim", "training", "SparseProp"),
        ("{0}, batch {1}, inference", "inference", "module"),
        ("{0}, batch {1}, inference, SparseProp", "inference", "SparseProp"),
        ("{0}, batch {1}, inference, torch CSR", "inference", "torch CSR"),
        ("{0}, batch {1}, inference, scipy CSR", "inference", "scipy CSR"),
    ]
    lines = head("speed-up over stock / best dense float32 / bfloat16", densities)
    for net in dict.fromkeys((r.net, r.batch) for r in results):
        own = {r.density: r for r in results if r.net == net[0]}
        for label, kind, name in rows:
            cells = [own[d].ratio(kind, name) for d in densities]
            if any(cell != "–" for cell in cells):
                lines.append(f"| {label.format(*net)} | " + " | ".join(cells) + " |")
        if all(ROOFLINE in r.inference for r in own.values()):
            shares = " | ".join(f"{own[d].inference[ROOFLINE] / own[d].inference['module']:.0%}" for d in densities)
            lines.append(f"| {net[0]}, inference, share of the roofline | {shares} |")
        share = " | ".join(f"{own[d].bytes_ratio:.3f}" for d in densities)
        lines.append(f"| {net[0]}, parameters + optimizer state, over dense | {share} |")
    return "\n".join(lines)


def times_behind(results: list[Result]) -> str:
    """The times behind the table."""
    lines = []
    for r in results:
        for kind, times in (("training", r.training), ("inference", r.inference)):
            lines.append(milliseconds(f"{r.net} {1 - r.density:.0%} {kind}", times))
        if "fused" in r.training:
            rate = r.training_flops / r.training["fused"] / 1e9
            lines.append(f"{r.net} {1 - r.density:.0%} fused: {rate:.0f} GFLOP/s on surviving weights, all included")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write JSON."""
    args = options(__doc__, quick="LeNet-300-100 at 95 %% only, one second").parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    nets, densities = (NETS[:1], (0.05,)) if args.quick else (NETS, DENSITIES)
    seconds = 1.0 if args.quick else args.seconds
    results = [measure(net, d, seconds, args.compile) for net in nets for d in densities]
    say_where(args, images(1)[2])
    print(table(results), end="\n\n")
    print(times_behind(results))
    write(args, results=[asdict(r) for r in results])


if __name__ == "__main__":
    main()
