"""How much faster masked convolutional networks train and run when only the surviving weights are computed.

    python benchmarks/sparse_convolution.py [--quick] [--json FILE] [--threads N] [--compile] [--seconds S]
                                            [--own-time] [--nets NAME …] [--densities D …] [--layers-only]

Two tables, each measured in one run and interleaved. Whole networks: stock torch eager, the best dense found (stock
or channels-last; with --compile also torch.compile), the best under autocast to bfloat16, `sparsify` in an ordinary
loop with torch.optim, and the fused step, in float32 and under autocast; training and inference. Layers of VGG-
like: one convolution at a uniform density, forward and backward, with the packing into the kernels' layout and
without, and SparseProp's where it is installed. Masks of networks are SNIP's, from one batch of MNIST or CIFAR-10
(or its JPEG copy) where they are found, else of the digits. Figures are medians over turns of 30 ms;
ratios are formed inside the run only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from _common import add_own_time, clock_of, grown_digits, head, loop, milliseconds, options, say_where, sgd, write
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur import Masks
from secateur._base import door
from secateur.lab.data import DataError, load
from secateur.lab.models import build
from secateur.sparse import compile_step, sparsify
from secateur.sparse.layers import sparse_convolution
from secateur.sparse.timing import interleaved

DENSITIES = (0.05, 0.02, 0.01)
LAYER_DENSITIES = (0.10, 0.05, 0.02, 0.01)
NETS = {"lenet-5-caffe": 100, "vgg-like": 32, "alexnet-s": 128}  # and their batches
MORE = {"alexnet-b": 128, "vgg-c": 32, "vgg-d": 32, "wrn-16-8": 16, "wrn-16-10": 16, "wrn-22-8": 16}  # by --nets only
# Channels in and out, and the size of the image: the layers of VGG-like that differ.
LAYERS = ((64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4))
DENSE = ("stock", "channels last", "torch.compile")
HALF = ("autocast", "autocast, channels last")
# Seconds of a candidate's turn: long enough that its own weights are in the caches, as in a loop of its own.
TURN = 0.03


@dataclass(frozen=True)
class Whole:
    """Median seconds of one network at one density."""

    net: str
    batch: int
    density: float
    work: float  # multiply-adds that are left, of the dense network's
    training: dict[str, float]
    inference: dict[str, float]  # name and batch


@dataclass(frozen=True)
class Layer:
    """Median seconds of one convolution, forward and backward; `packing`: those of an empty one."""

    layer: str
    batch: int
    density: float
    times: dict[str, float]


def images(net: str, count: int) -> tuple[Tensor, Tensor, str]:
    """Return one batch for a network, its classes, and where they are from."""
    grey = net.startswith("lenet")
    for name in ("mnist",) if grey else ("cifar-10", "cifar-10-jpeg75"):
        try:
            train = load(name, seed=0).train
        except DataError:
            continue
        x, y = train.x[:count], train.y[:count]
        x = x if x.is_floating_point() else (x.float() / 255 - 0.45) / 0.25
        return x.contiguous(), y.long().clone(), name
    grown, y = grown_digits(count)
    grown = nn.functional.pad(grown, (4, 4, 4, 4))
    if not grey:
        colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        grown = nn.functional.pad(grown, (2, 2, 2, 2)) * colours + 0.3 * (1 - colours)
    return ((grown - 0.3) / 0.3).contiguous(), y, "the digits"


def make(net: str) -> nn.Module:
    return build(net, generator=torch.Generator().manual_seed(0))


def work_left(model: nn.Module, masks: Masks, x: Tensor) -> float:
    """Count the multiply-adds of a forward pass that the masks leave, over all."""
    names = {id(p): n for n, p in model.named_parameters()}
    left = total = 0.0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal left, total
        weight = module.get_parameter("weight")
        places = output[0, 0].numel() if output.dim() > 2 else 1
        mask = masks.get(names[id(weight)])
        total += weight.numel() * places
        left += (weight.numel() if mask is None else int(mask.count_nonzero())) * places

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        model(x[:2])
    for handle in handles:
        handle.remove()
    return left / total


def under_autocast(step: Callable[[Tensor, Tensor], object], x: Tensor, y: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        step(x, y)


def measure_whole(
    net: str, batch: int, density: float, seconds: float, compiled: bool, clock: Callable[[], float]
) -> Whole:
    """Measure one network at one density."""
    x, y, _ = images(net, batch)
    base = make(net)
    masks = sc.prune(base, sc.methods.snip(density=density), batches=[(x, y)])
    work = work_left(copy.deepcopy(base), masks, x)
    turned = x.to(memory_format=torch.channels_last)
    dense = {"stock": (make(net), x), "channels last": (make(net).to(memory_format=torch.channels_last), turned)}
    if compiled:
        dense["torch.compile"] = (torch.compile(make(net)), x)  # type: ignore[assignment]
    fast = sparsify(base, masks, example_inputs=x)
    training = {name: loop(model, inputs, y) for name, (model, inputs) in dense.items()}
    training["autocast"] = loop(make(net), x, y, cast=True)
    training["autocast, channels last"] = loop(make(net).to(memory_format=torch.channels_last), turned, y, cast=True)
    training["module"] = loop(fast, x, y)
    if door.native is not None:
        model = copy.deepcopy(base)
        step = compile_step(model, masks, cross_entropy, sgd(model))
        training["fused"] = lambda: step(x, y)
        training["fused, autocast"] = lambda: under_autocast(step, x, y)
    trained = interleaved(training, seconds=seconds, sample=TURN, clock=clock)
    running = {"stock": make(net).eval(), "module": fast.eval()}
    some = {size: x[:size].contiguous() for size in (1, batch)}
    inference: dict[str, Callable[[], object]] = {
        f"{name} {size}": (lambda m=model, inputs=inputs: m(inputs))
        for size, inputs in some.items()
        for name, model in running.items()
    }
    with torch.no_grad():
        inferred = interleaved(inference, seconds=seconds / 2, sample=TURN, clock=clock)
    return Whole(net, batch, density, work, trained, inferred)


def peer_of(dense: nn.Conv2d) -> nn.Module | None:
    """SparseProp's convolution, if it is installed."""
    try:
        from sparseprop.modules import SparseConv2d as Peer
    except ImportError:
        return None
    return Peer.from_dense(dense)


def measure_layer(
    sizes: tuple[int, int, int], batch: int, density: float, seconds: float, clock: Callable[[], float]
) -> Layer:
    """Measure one convolution at a uniform density."""
    inputs, outputs, size = sizes
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    dense = nn.Conv2d(inputs, outputs, 3, padding=1)
    mask = torch.rand(dense.weight.shape, generator=generator) < density
    with torch.no_grad():
        dense.weight.mul_(mask)
    x = torch.randn(batch, inputs, size, size, generator=generator).requires_grad_()
    dy = torch.randn(batch, outputs, size, size, generator=generator)
    modules: dict[str, nn.Module] = {
        "stock": dense,
        "ours": sparse_convolution(dense, mask),
        "packing": sparse_convolution(dense, torch.zeros_like(mask)),
    }
    peer = peer_of(dense)
    if peer is not None:
        modules["SparseProp"] = peer
    candidates: dict[str, Callable[[], object]] = {
        name: (lambda m=module: torch.autograd.grad(m(x), [x, *m.parameters()], dy)) for name, module in modules.items()
    }
    return Layer(f"{inputs}-{outputs} @ {size}", batch, density, interleaved(candidates, seconds=seconds, clock=clock))


def ratio(times: dict[str, float], name: str, over: Sequence[str]) -> str:
    known = [times[o] for o in over if o in times]
    return f"{min(known) / times[name]:.1f}" if name in times and known else "–"


def whole_table(results: list[Whole]) -> str:
    """Speed-ups of training over stock / the best dense / the best dense bfloat16, and of inference over stock."""
    densities = sorted({r.density for r in results}, reverse=True)
    lines = head("speed-up over stock / best dense float32 / best bfloat16", densities)
    for net, batch in dict.fromkeys((r.net, r.batch) for r in results):
        own = [next(r for r in results if (r.net, r.density) == (net, d)) for d in densities]
        ways = {"fused step": "fused", "fused step, autocast": "fused, autocast", "`sparsify` + torch.optim": "module"}
        for label, name in ways.items():
            cells = [" / ".join(ratio(r.training, name, over) for over in (["stock"], DENSE, HALF)) for r in own]
            lines.append(f"| {net}, batch {batch}, {label} | " + " | ".join(cells) + " |")
        for size in (1, batch):
            cells = [ratio(r.inference, f"module {size}", [f"stock {size}"]) for r in own]
            lines.append(f"| {net}, inference, batch {size} | " + " | ".join(cells) + " |")
        lines.append(f"| {net}, multiply-adds left | " + " | ".join(f"{r.work:.1%}" for r in own) + " |")
    return "\n".join(lines)


def layer_table(results: list[Layer]) -> str:
    """Speed-ups over stock, with packing / without."""
    densities = sorted({r.density for r in results}, reverse=True)
    lines = ["| forward + backward over stock | " + " | ".join(f"{d:.0%} kept" for d in densities) + " |"]
    lines.append("|---|" + "---|" * len(densities))
    for layer in dict.fromkeys(r.layer for r in results):
        cells = []
        for density in densities:
            times = next(r for r in results if (r.layer, r.density) == (layer, density)).times
            left = times["ours"] - times["packing"]
            alone = {**times, "ours": left} if left > 0.1 * times["packing"] else {}  # else only noise is left
            peer = f" ({ratio(times, 'SparseProp', ['stock'])})" if "SparseProp" in times else ""
            cells.append(f"{ratio(times, 'ours', ['stock'])} / {ratio(alone, 'ours', ['stock'])}{peer}")
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def times_behind(results: list[Whole]) -> str:
    """The times behind the table."""
    lines = []
    for r in results:
        for kind, times in (("training", r.training), ("inference", r.inference)):
            lines.append(milliseconds(f"{r.net} {1 - r.density:.0%} {kind}", times, digits=2))
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write JSON."""
    parser = options(__doc__, quick="LeNet-5-Caffe and one layer at 95 %% only")
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=[*NETS, *MORE])
    parser.add_argument("--densities", nargs="*", type=float, default=list(DENSITIES))
    parser.add_argument("--layers-only", action="store_true")
    add_own_time(parser)
    args = parser.parse_args()
    clock = clock_of(parser, args)
    torch.set_num_threads(args.threads)
    nets, densities, seconds = args.nets, args.densities, args.seconds
    layers, layer_densities = LAYERS, LAYER_DENSITIES
    if args.quick:
        nets, densities, seconds, layers, layer_densities = ["lenet-5-caffe"], [0.05], 1.0, LAYERS[4:5], (0.05,)
    say_where(args, images("vgg-like", 1)[2])
    whole: list[Whole] = []
    if not args.layers_only:
        whole = [measure_whole(n, (NETS | MORE)[n], d, seconds, args.compile, clock) for n in nets for d in densities]
        print(whole_table(whole), end="\n\n")
        print(times_behind(whole), end="\n\n")
    single = [measure_layer(sizes, 32, d, seconds / 8, clock) for sizes in layers for d in layer_densities]
    print(layer_table(single))
    write(args, networks=[asdict(r) for r in whole], layers=[asdict(r) for r in single])


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    main()
