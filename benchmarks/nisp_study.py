"""Half of the units of every layer go from a trained network: NISP beside the baselines of its paper.

    python benchmarks/nisp_study.py --model lenet-5-caffe --data mnist --seeds 5
    python benchmarks/nisp_study.py --model resnet-20 --data cifar-10-jpeg75 --seeds 1 --epochs 8 --after 4 \
        --rate 0.1 --validation 0 --bfloat16 --threads 1 --folder DIR

Each seed trains one network. Every method cuts that one (`shrink`, so that what trains on is really smaller), is
measured, trained on for as many epochs (or `--after`), and measured again. NISP propagates the importance of the
responses before the last layer; "layer by layer" ranks each layer's own responses by the same selection; "L1" is the
norm of filters; "from scratch" draws fresh weights for NISP's small network, and has the epochs of both.
CIFAR-10 here may be a JPEG copy: compare within the table only. With `--folder` the dense network and each finished
row are kept there, and a run that was stopped goes on; `--bfloat16` trains under autocast, channels last.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur._base.files import write_whole
from secateur.lab import data, models
from secateur.lab.comparing import deviation
from secateur.lab.data import Dataset
from secateur.propagation import infinite_selection
from secateur.sparse.timing import processor

BATCH, SEEN = 100, 500
Cut = Callable[[nn.Module, Tensor, Tensor, int], nn.Module]


class Block(nn.Module):
    """Two convolutions and a path around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
        )
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        passes = stride == 1 and inputs == width
        self.around = nn.Identity() if passes else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_two(self.two(self.norm_one(self.one(x)).relu()))
        return (y + self.around(x)).relu()


def resnet20() -> nn.Module:
    widths = [(16, 16, 1)] + [(16, 16, 1)] * 2 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    first = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *(Block(*w) for w in widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def fresh(name: str, seed: int) -> nn.Module:
    if name == "resnet-20":
        torch.manual_seed(seed)
        return resnet20()
    return models.build(name, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum 0.9, decay 5e-4, and a rate that falls to zero as a half cosine."""

    epochs: float
    after: float
    rate: float
    half: bool

    def train(self, model: nn.Module, dataset: Dataset, seed: int, epochs: float) -> nn.Module:
        steps = data.steps_in(len(dataset.train), BATCH, epochs=epochs)
        optimizer = torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=5e-4)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        model.train()
        if self.half:
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for x, y in data.batches(dataset.train, BATCH, seed=seed, stop=steps, augment=dataset.augment):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                out = model(x)
            F.cross_entropy(out.float(), y).backward()
            optimizer.step()
            falling.step()
        return model


@torch.no_grad()
def error(model: nn.Module, dataset: Dataset) -> float:
    model.eval()
    wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in data.in_order(dataset.test, 1000))
    return 100 * wrong / len(dataset.test)


def by_method(method: sc.Method) -> Cut:
    return lambda model, x, y, seed: sc.shrink(model, method, x[:4], batches=[(x, y)], modes=("eval",)).model


def by_scores(units: Callable[[str, Tensor, dict[str, Tensor], torch.Generator], Tensor]) -> Cut:
    """Cut half of every group of units by a score of each unit in each layer, from that layer's own responses."""

    def cut(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
        drawn, responses = torch.Generator().manual_seed(seed), responses_of(model, x)

        def score(name: str, weight: Tensor) -> Tensor:
            if weight.ndim < 2:
                return torch.zeros_like(weight)
            found = units(name, weight, responses, drawn).to(weight)
            return found.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight) / weight[0].numel()

        return sc.shrink(model, 0.5, x[:4], score=score, modes=("eval",)).model

    return cut


@torch.no_grad()
def responses_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Each layer's responses by the name of its weight: a row per sample, a column per unit, averaged over places."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def look(_: nn.Module, __: object, out: Tensor, name: str = name) -> None:
                found[f"{name}.weight"] = out.relu().flatten(2).mean(2) if out.ndim > 2 else out.relu()

            handles.append(layer.register_forward_hook(look))
    model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


CUTS: dict[str, Cut] = {
    "NISP": by_method(sc.methods.nisp(0.5)),
    "L1": by_method(sc.methods.l1_filters(0.5)),
    "random": by_scores(lambda name, weight, seen, drawn: torch.rand(len(weight), generator=drawn)),
    "layer by layer": by_scores(lambda name, weight, seen, drawn: infinite_selection(seen[name].double())),
}


Rows = dict[str, tuple[float, float, int]]


def study(name: str, dataset: Dataset, seed: int, recipe: Recipe, folder: Path | None) -> Rows:
    """Errors before and after training on, and parameters, of each method; of the whole network under "dense"."""
    of = f"{name}-{dataset.name}-{len(dataset.train)}-{recipe.epochs:g}-{recipe.rate:g}-{recipe.half}-{seed}"
    kept = _Kept(folder, of, f"{of}-{recipe.after:g}")
    dense = kept.weights(fresh(name, seed), lambda model: recipe.train(model, dataset, seed, recipe.epochs))
    missed = error(dense, dataset)
    found = kept.rows
    kept.add("dense", (missed, missed, sum(p.numel() for p in dense.parameters())))
    x, y = data.batch_at(dataset.train, SEEN, seed=seed, step=0)
    for method, cut in CUTS.items():
        if method not in found:
            small = cut(dense, x, y, seed)
            size, before = sum(p.numel() for p in small.parameters()), error(small, dataset)
            recipe.train(small, dataset, seed + 1, recipe.after)
            kept.add(method, (before, error(small, dataset), size))
    if "from scratch" not in found:
        scratch = redrawn(CUTS["NISP"](dense, x, y, seed), seed)
        recipe.train(scratch, dataset, seed, recipe.epochs + recipe.after)
        kept.add("from scratch", (math.nan, error(scratch, dataset), found["NISP"][2]))
    return found


class _Kept:
    """The dense weights and the finished rows of one seed, in files where there is a folder."""

    def __init__(self, folder: Path | None, dense: str, rows: str) -> None:
        self._weights = folder / f"{dense}.safetensors" if folder else None
        self._rows = folder / f"{rows}.json" if folder else None
        done = self._rows is not None and self._rows.exists()
        self.rows: Rows = json.loads(self._rows.read_text(encoding="utf-8")) if done and self._rows else {}

    def weights(self, model: nn.Module, train: Callable[[nn.Module], nn.Module]) -> nn.Module:
        if self._weights is not None and self._weights.exists():
            model.load_state_dict(load_file(self._weights))
            return model
        train(model)
        if self._weights is not None:
            self._weights.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, self._weights)
        return model

    def add(self, method: str, row: tuple[float, float, int]) -> None:
        self.rows[method] = row
        if self._rows is not None:
            write_whole(self._rows, json.dumps(self.rows).encode())


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    twin = copy.deepcopy(model)
    torch.manual_seed(seed)
    for module in twin.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
    return twin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet-5-caffe")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--after", type=float, help="epochs after the cut; as many by default")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--examples", type=int, help="of the training set; all by default")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the training set left out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bfloat16", action="store_true", help="train under autocast")
    parser.add_argument("--folder", type=Path, help="where what is finished is kept")
    options = parser.parse_args()
    after = options.epochs if options.after is None else options.after
    recipe = Recipe(options.epochs, after, options.rate, options.bfloat16)
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = data.load(options.data, validation=options.validation)
    if options.examples:
        dataset = data.first(dataset, options.examples)
    results = []
    for seed in range(options.seeds):
        results.append(study(options.model, dataset, seed, recipe, options.folder))
        lines = (f"{name} {before:.2f} -> {after:.2f}" for name, (before, after, _) in results[-1].items())
        print(f"seed {seed}: {', '.join(lines)}", flush=True)
    print(f"\n{options.model} on {options.data}, {recipe}, {options.seeds} seeds, {processor()}\n")
    print("| method | parameters | error before, % | after, % | lost, points |\n|---|--:|--:|--:|--:|")
    for method in results[0]:
        before, after, lost = (
            [each[method][0] for each in results],
            [each[method][1] for each in results],
            [each[method][1] - each["dense"][1] for each in results],
        )
        said = " | ".join(map(spread, (before, after, lost)))
        print(f"| {method} | {results[0][method][2]:,} | {said} |")


def spread(values: list[float]) -> str:
    if any(math.isnan(value) for value in values):
        return ""
    apart = deviation(values)
    return f"{mean(values):.2f}" + (f" ± {apart:.2f}" if apart is not None else "")


if __name__ == "__main__":
    main()
