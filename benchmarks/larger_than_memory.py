"""A language model pruned on disk and in memory: the most memory that each takes, the time, and whether the bits agree.

    python benchmarks/larger_than_memory.py [--method sparsegpt] [--layers 40] [--width 1024] [--dtype float32]

Builds a model of Llama's shape from a configuration, with random weights, and writes it in shards; then prunes it in a
process of its own, once with `prune_folder` and once with `prune` on the opened model, and prints what the process held
at most (VmHWM of /proc, mapped files included) above what it held once everything was imported. Linux only; needs
transformers. The calibration data are random tokens: memory and time do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

MEGA = 1e6


def held(what: str) -> float:
    """Memory of this process in MB: VmRSS now, or VmHWM, the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1]) / MEGA


def build(options: Any, folder: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=8192,
        hidden_size=options.width,
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=max(1, options.width // 256),
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    model.save_pretrained(folder, max_shard_size="500MB")


def pruned(options: Any, source: Path, to: Path) -> dict[str, float]:
    """Prune in this process, and say what it took."""
    import transformers

    import secateur as sc
    from secateur import methods
    from secateur.lab import language
    from secateur.pruning.blocks import found_in

    assert transformers.LlamaForCausalLM  # all that belongs to such a model is imported
    method = getattr(methods, options.method)(options.density)
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(8192, (options.samples, options.length), generator=drawn)
    batches, before, begun = language.batches_of(rows), held("VmRSS"), time.perf_counter()
    if options.part == "disk":
        language.prune_folder(source, method, batches, to)
    else:
        model = language.opened(source)
        language.written(model, sc.prune(model, method, batches, blocks=found_in(model)), to)
    return {"before": before, "peak": held("VmHWM"), "seconds": time.perf_counter() - begun}


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same tensors and the same masks."""
    from secateur.lab import language

    found = (dict(language.opened(folder).state_dict()) for folder in (one, other))
    first, second = found
    masks = [(folder / "secateur_masks.safetensors").read_bytes() for folder in (one, other)]
    equal = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return equal and masks[0] == masks[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where the models go [default: a temporary folder]")
    parser.add_argument("--part", choices=("build", "disk", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "build":
        return build(options, options.folder / "model")
    if options.part:
        return print(json.dumps(pruned(options, options.folder / "model", options.folder / options.part)))
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        parts: dict[str, Any] = {}
        for part in ("build", "disk", "memory"):
            given = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--folder", str(folder)]
            said = subprocess.run(given, check=True, capture_output=True, text=True).stdout
            parts[part] = json.loads(said) if said else None
        size = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors")) / MEGA
        block = (size - 2 * 8192 * options.width * getattr(torch, options.dtype).itemsize / MEGA) / options.layers
        print(f"{options.method}, {options.layers} blocks of {block:.0f} MB, {options.dtype}: {size:.0f} MB in all")
        print("| | memory at most, MB | above the imports, MB | of the model | seconds |\n|---|--:|--:|--:|--:|")
        for name, part in (("on disk", "disk"), ("in memory", "memory")):
            found = parts[part]
            above = found["peak"] - found["before"]
            print(f"| {name} | {found['peak']:.0f} | {above:.0f} | {above / size:.0%} | {found['seconds']:.0f} |")
        print("the same bits:", same(folder / "disk", folder / "memory"))


if __name__ == "__main__":
    main()
