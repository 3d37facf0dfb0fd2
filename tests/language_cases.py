"""Small language models in folders, and what they are pruned on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur import methods, scope
from secateur.axes import Method
from secateur.lab import language

transformers = pytest.importorskip("transformers", reason="language models are opened by transformers (extra `hf`)")

SIZES: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 32, "num_attention_heads": 4, "hidden_size": 16}
DEEP: dict[str, Any] = SIZES | {"num_hidden_layers": 3}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=60, n_positions=32, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    ),
    "opt": lambda: transformers.OPTConfig(ffn_dim=32, word_embed_proj_dim=16, **DEEP),
    "llama": lambda: transformers.LlamaConfig(intermediate_size=32, num_key_value_heads=2, **DEEP),
    "llama, tied": lambda: transformers.LlamaConfig(intermediate_size=32, tie_word_embeddings=True, **DEEP),
    "gemma2": lambda: transformers.Gemma2Config(
        intermediate_size=32, num_key_value_heads=2, head_dim=8, sliding_window=8, **DEEP
    ),
}
METHODS: dict[str, Method] = {
    "wanda 2:4": methods.wanda(0.5, scope=scope.n_of_m(2, 4)),
    "sparsegpt": methods.sparsegpt(0.5),
}
BATCHES = language.batches_of(torch.randint(60, (11, 32), generator=torch.Generator().manual_seed(3)))


def saved(kind: str, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "9KB") -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=dtype)
    model.save_pretrained(folder / "model", max_shard_size=shard)
    return folder / "model"
