"""What a sweep over a language model on disk refuses, before anything is written and with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from language_cases import BATCHES, CONFIGS, METHODS, saved, transformers
from secateur import SecateurError, UnfitModelError, methods, repairs
from secateur.cli import main
from secateur.lab import language
from secateur.lab.language import _skeleton


def test_a_method_that_needs_more_than_inputs_is_refused(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path)
    for method in (
        methods.snip(0.5),
        methods.sparsegpt(0.5, repair=repairs.tuned(3)),
        methods.set_(0.5, until=1000),
    ):
        with pytest.raises(SecateurError, match="needs more than inputs"):
            language.prune_folder(source, method, BATCHES, tmp_path / "out")
    with pytest.raises(SecateurError, match="`batches` is empty"):
        language.prune_folder(source, methods.wanda(0.5), [], tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_folders_that_are_in_the_way_are_left_alone(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "letter.txt").write_text("mine")
    with pytest.raises(SecateurError, match=r"out.partial is in the way, and holds no sweep"):
        language.prune_folder(source, methods.wanda(0.5), BATCHES, tmp_path / "out")
    with pytest.raises(SecateurError, match=r"model is there already"):
        language.prune_folder(source, methods.wanda(0.5), BATCHES, source)
    assert (tmp_path / "out.partial" / "letter.txt").read_text() == "mine"


def test_weights_that_are_not_there_or_not_right_are_named(tmp_path: Path) -> None:
    source = saved("llama", tmp_path)
    index = source / "model.safetensors.index.json"
    whole, config = index.read_text(), json.loads((source / "config.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    found = json.loads(whole)
    shard = found["weight_map"][name]
    other = next(file for file in found["weight_map"].values() if file != shard)

    def fails(said: str) -> None:
        with pytest.raises(SecateurError, match=said):
            language.prune_folder(source, methods.wanda(0.5), BATCHES, tmp_path / "out")
        assert not list(tmp_path.glob("out*"))

    index.write_text("{}")
    fails("holds no `weight_map`")
    index.write_text(whole.replace(shard, "../elsewhere.safetensors"))
    fails(r"names the file '../elsewhere.safetensors', which is not in the folder")
    index.write_text(json.dumps(found | {"weight_map": found["weight_map"] | {name: other}}))
    fails(f"says that '{name}' is in {other}, and it is not")
    index.write_text(json.dumps({"weight_map": {k: v for k, v in found["weight_map"].items() if k != name}}))
    fails(f"have no tensor '{name}'.*--in-memory")
    index.write_text(whole)
    (source / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    fails(r"has the shape \(32, 16\) in the files, and \(64, 16\) by the model's configuration")
    (source / "config.json").write_text(json.dumps(config | {"dtype": None}))
    fails("does not say the type of the weights")
    (source / "config.json").write_text(json.dumps(config))
    (source / shard).write_bytes((source / shard).read_bytes()[:100])
    fails(f"{shard} is no safetensors file, or it is damaged")


def test_activations_that_are_not_finite_leave_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    nn.init.constant_(model.model.layers[0].input_layernorm.weight, float("nan"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(SecateurError, match=r"model.layers.0.self_attn.*not finite"):
        language.prune_folder(tmp_path / "model", METHODS["sparsegpt"], BATCHES, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_weights_without_safetensors_are_for_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved("opt", tmp_path, shard="1GB")
    torch.save(language.opened(source).state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    ids = torch.cat([batch["input_ids"].flatten() for batch in BATCHES])
    np.save(tmp_path / "ids.npy", ids.numpy())
    given = ["prune", str(source), "--calibration", str(tmp_path / "ids.npy"), "--to", str(tmp_path / "out")]
    assert main(given) == 1
    assert "no weights in safetensors files" in capsys.readouterr().err and not list(tmp_path.glob("out*"))
    assert main([*given, "--in-memory"]) == 0 and (tmp_path / "out" / "model.safetensors").is_file()


def test_blocks_that_share_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved("llama", tmp_path)
    real = _skeleton.configured

    def shared(folder: Path) -> nn.Module:
        model: Any = real(folder)
        model.model.layers[2].mlp = model.model.layers[0].mlp
        return model

    monkeypatch.setattr(_skeleton, "configured", shared)
    with pytest.raises(UnfitModelError, match=r"is shared between 'model.layers.0' and 'model.layers.2'"):
        language.prune_folder(source, methods.wanda(0.5), BATCHES, tmp_path / "out")


@pytest.mark.parametrize("wrong", ["between", "depends"])
def test_blocks_that_are_not_handed_one_another_are_refused(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved("llama", tmp_path)
    real = _skeleton.configured

    class Between(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.embed_tokens, self.layers, self.rotary_emb = inner.embed_tokens, inner.layers, inner.rotary_emb
            self.norm = inner.norm

        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            states = self.embed_tokens(input_ids)
            angles = self.rotary_emb(states, torch.arange(states.shape[1])[None])
            for layer in self.layers:
                given = tuple(each + (states.mean() if wrong == "depends" else 0) for each in angles)
                states = layer(states + 1 if wrong == "between" else states, position_embeddings=given)
            return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=self.norm(states))

    def built(folder: Path) -> nn.Module:
        model: Any = real(folder)
        model.model = Between(model.model)
        return model

    monkeypatch.setattr(_skeleton, "configured", built)
    said = "not each handed the output" if wrong == "between" else "called with what depends on the outputs"
    with pytest.raises(UnfitModelError, match=said):
        language.prune_folder(source, methods.wanda(0.5), BATCHES, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
