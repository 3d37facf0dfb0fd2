"""A trained speaker encoder loses hidden units of its LSTM: equal to its masked self, how small, how far, how fast.

    pip install --no-deps resemblyzer
    python benchmarks/real_voice.py [--densities 0.9 0.75 0.5]

Three layers of 256 units and a linear layer, 1.4 M parameters. Units are ranked by the L1 norms of what makes them
(torch gives all three layers one width), or by chance with three seeds. Embeddings of 32
utterances of 160 synthetic frames: cosine to those of the dense model. "Equal" is the largest relative difference
between the smaller model and the one of full size with zeros in its weights, in float64, eval and train mode.
Milliseconds of one batch, dense and shrunk in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from statistics import mean

import torch
from real_models import Voice, voice
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.shrinking import UnitScore
from secateur.sparse.timing import processor
from secateur.turns import decide


@torch.no_grad()
def cosine(model: nn.Module, x: Tensor, whole: Tensor) -> float:
    return float(F.cosine_similarity(model.eval()(x), whole).mean())


def drawn(seed: int) -> UnitScore:
    own = torch.Generator().manual_seed(seed)
    return lambda name, weight: torch.rand(weight.shape, generator=own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.9, 0.75, 0.5])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model, x, _ = voice()
    with torch.no_grad():
        whole = model(x)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {processor()}\n")
    print("| units kept | parameters | equal | cosine | by chance | faster |\n|--:|--:|--:|--:|--:|--:|")
    for density in args.densities:
        small, certificate, _ = shrunk = sc.shrink(model, density, x[:4])
        chance = [sc.shrink(model, density, x[:4], score=drawn(s), draws=0, modes=("eval",)).model for s in range(3)]
        with tempfile.TemporaryDirectory() as folder:
            shrunk.save(Path(folder) / "voice")
            again = sc.load(Path(folder) / "voice", Voice()).model
        assert again is not None and torch.equal(again.eval()(x), small.eval()(x))
        with torch.inference_mode():
            verdict = decide(lambda: model(x), lambda small=small: small(x), seconds=3)
        print(
            f"| {density:.0%} | {certificate.after.params / certificate.before.params:.2f} | {certificate.worst:.0e} | "
            f"{cosine(small, x, whole):.3f} | {mean(cosine(each, x, whole) for each in chance):.3f} | "
            f"{1 / verdict.ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
