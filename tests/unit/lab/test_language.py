"""Language models from a folder: what they are calibrated on; with transformers, pruned, written and opened again."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, SecateurError, methods, prune
from secateur.cli import main
from secateur.lab import language
from secateur.pruning.blocks import found_in


class Letters:
    """A tokenizer: one id for each letter."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def test_text_and_ids_are_read(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abba", encoding="utf-8")
    np.save(tmp_path / "ids.npy", np.array([[3, 1], [4, 1]], dtype=np.uint16))
    assert language.token_ids(tmp_path / "text.txt", Letters()).tolist() == [97, 98, 98, 97]
    assert language.token_ids(tmp_path / "ids.npy").tolist() == [3, 1, 4, 1]


def test_what_is_no_calibration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    np.save(tmp_path / "real.npy", np.zeros(3))
    for name, said in (
        ("none.txt", "no calibration file"),
        ("empty.txt", "holds no tokens"),
        ("real.npy", "whole numbers, got float64"),
    ):
        with pytest.raises(SecateurError, match=said):
            language.token_ids(tmp_path / name, Letters())
    with pytest.raises(SecateurError, match="has no tokenizer"):
        language.token_ids(tmp_path / "empty.txt")
    with pytest.raises(SecateurError, match="5 tokens, fewer than one window of 6"):
        language.windows(torch.arange(5), length=6, count=1, vocabulary=9)
    with pytest.raises(SecateurError, match=r"in \[0, 4\).*got 4"):
        language.windows(torch.arange(5), length=2, count=1, vocabulary=4)


def test_windows_do_not_overlap_and_reach_both_ends() -> None:
    rows = language.windows(torch.arange(1003), length=10, count=7, vocabulary=2000)
    assert rows.shape == (7, 10) and rows[0, 0] == 0 and rows[-1, -1] == 999
    assert len(rows.unique()) == 70 and bool((rows.diff(dim=1) == 1).all())
    assert language.windows(torch.arange(25), length=10, count=7, vocabulary=99).shape == (2, 10)
    assert [len(batch["input_ids"]) for batch in language.batches_of(rows, size=4)] == [4, 3]


def test_perplexity_is_that_of_the_definition() -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))

    class Bigram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(table)

        def forward(self, input_ids: Tensor) -> Any:
            return SimpleNamespace(logits=self.table[input_ids])

    rows = torch.randint(6, (5, 7), generator=torch.Generator().manual_seed(1))
    losses = [-float(table[a].log_softmax(0)[b]) for row in rows.tolist() for a, b in pairwise(row)]
    assert language.perplexity(Bigram(), rows, size=2) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_blocks_are_the_largest_list_of_equal_modules() -> None:
    inner = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "heads": nn.ModuleList([nn.Linear(1, 1)] * 2), "h": inner})
    assert found_in(model) == ["h.0", "h.1", "h.2"]
    with pytest.raises(SecateurError, match="Linear has no list of equal blocks"):
        found_in(nn.Linear(2, 2))


# --- with transformers ------------------------------------------------------------------------------------------------


def _saved(kind: str, folder: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="language models are opened by transformers (extra `hf`)")
    configs = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        ),
        "opt": lambda: transformers.OPTConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
            max_position_embeddings=32, word_embed_proj_dim=16,
        ),
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(configs[kind]()).save_pretrained(folder / kind)
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 60, 700))
    return folder / kind


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("options", [["--method", "wanda", "--pattern", "2:4"], ["--method", "sparsegpt"]])
def test_a_model_is_pruned_and_opens_again(
    kind: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = _saved(kind, tmp_path)
    given = ["--calibration", str(tmp_path / "ids.npy"), "--to", str(tmp_path / "out"), "--samples", "8", "--json"]
    assert main(["prune", str(where), *options, *given]) == 0
    told = json.loads(capsys.readouterr().out)
    masks = Masks.load(tmp_path / "out" / "secateur_masks.safetensors")
    model, before = language.opened(tmp_path / "out"), language.opened(where)
    assert told["kept"] == masks.kept == masks.numel // 2 and told["length"] == 32 and told["blocks"] == 2
    own = dict(model.named_parameters())
    for name, parameter in before.named_parameters():
        bits = masks.get(name)
        if bits is None:
            assert torch.equal(own[name], parameter)
        else:
            assert bool((own[name][~bits] == 0).all()) and bool((own[name][bits] != 0).any())
    assert not any("embed" in name or "wte" in name or "lm_head" in name for name in masks)
    if "2:4" in options:  # along the inputs, which GPT-2 stores first
        turned = {name: bits.T if kind == "gpt2" else bits for name, bits in masks.items()}
        assert all(bool((bits.unflatten(1, (-1, 4)).sum(2) == 2).all()) for bits in turned.values())


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_the_whole_model_runs_once_however_many_blocks_it_has(kind: str, tmp_path: Path) -> None:
    model, runs = language.opened(_saved(kind, tmp_path)), []
    model.register_forward_hook(lambda *given: runs.append(1))
    rows = language.windows(language.token_ids(tmp_path / "ids.npy"), length=32, count=8, vocabulary=60)
    prune(model, methods.wanda(0.5), language.batches_of(rows), blocks=found_in(model))
    assert len(runs) == 2 and model.config.use_cache


def test_what_cannot_be_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = _saved("gpt2", tmp_path)
    given = ["--calibration", str(tmp_path / "ids.npy"), "--to", str(tmp_path / "out")]
    assert main(["prune", str(tmp_path / "none"), *given]) == 2
    assert main(["prune", str(where), *given, "--length", "64"]) == 2
    assert main(["prune", str(where), "--calibration", str(tmp_path / "ids.npy"), "--to", str(where)]) == 2
    np.save(tmp_path / "few.npy", np.arange(5))
    assert main(["prune", str(where), "--calibration", str(tmp_path / "few.npy"), "--to", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    for sentence in ("there is no folder at", "more than the 32 positions", "is there already", "5 tokens, fewer than"):
        assert sentence in said
    assert not (tmp_path / "out").exists()
