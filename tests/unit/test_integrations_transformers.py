"""Models of transformers: smaller as their config can say, and open again from a folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import SecateurError, coupling, shrinking
from secateur.axes.structure import attention_heads
from secateur.integrations.transformers import shrink
from secateur.methods import depth, l1_filters

hf = pytest.importorskip("transformers", reason="extra `hf`")

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SIZES, "vocab_size": 90, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 90, "bos_token_id": 1, "eos_token_id": 2}


def made(name: str, config: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = getattr(hf, name)(getattr(hf, config)(**options)).eval()
    more = {"use_cache": False} if "LM" in name else {}
    return model, {"input_ids": torch.randint(3, 80, (2, 8)), **more}


CASES = {
    "llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**TEXT, "num_key_value_heads": 2},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "hidden_size": 24},
        "",
    ),
    "qwen": (  # one ε for all norms: those of queries and keys keep theirs, so the stream stays
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {**TEXT, "num_key_value_heads": 2, "head_dim": 12},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32},
        "stream stayed: Qwen3Config",
    ),
    "bert": ("BertModel", "BertConfig", TEXT, {"intermediate_size": 32}, "heads stayed: BertConfig"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, {"n_inner": 96}, "heads stayed: GPT2Config"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_smaller_model_opens_from_its_folder(case: str, tmp_path: Path) -> None:
    name, config, options, wanted, said = CASES[case]
    model, inputs = made(name, config, options)
    before = model.config.to_dict()
    if said:
        with pytest.warns(UserWarning, match=said):
            shrunk = shrink(model, 0.5, inputs, modes=("eval",))
    else:
        shrunk = shrink(model, 0.5, inputs, modes=("eval",))
    assert model.config.to_dict() == before
    now = shrunk.model.config.to_dict()
    changed = {key: value for key, value in now.items() if value != before[key]}
    assert {key: value for key, value in changed.items() if "eps" not in key} == wanted
    shrunk.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs)[0], shrunk.model(**inputs)[0], rtol=0, atol=1e-6)
    assert sum(p.numel() for p in again.parameters()) == shrunk.certificate.after.params


def test_kinds_say_what_may_go() -> None:
    model, inputs = made("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 2})
    small = shrink(model, 0.5, inputs, kinds=("heads",), modes=("eval",)).model
    assert (small.config.num_key_value_heads, small.config.num_attention_heads) == (1, 2)
    assert (small.config.intermediate_size, small.config.hidden_size) == (64, 48)
    units = shrink(model, l1_filters(0.25), inputs, kinds=("units",), modes=("eval",)).model
    assert (units.config.intermediate_size, units.config.num_attention_heads) == (16, 4)


LAYERS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 2, "num_hidden_layers": 3}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "n_layer": 3}),
    "gemma": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**TEXT, "num_key_value_heads": 2, "head_dim": 12, "num_hidden_layers": 3},
    ),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_go_and_the_config_counts_them(case: str, tmp_path: Path) -> None:
    model, inputs = made(*LAYERS[case])
    with torch.no_grad():  # the first layer does least, so that others have to move up
        layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
        for name, parameter in layers[0].named_parameters():
            parameter.fill_(-0.95) if "post" in name and case == "gemma" else parameter.mul_(0.1)
    shrunk = shrink(model, depth(0.67), inputs, batches=[inputs], modes=("eval",))
    (gone,) = shrunk.manifest.removed
    assert gone.path.endswith(".0")
    assert {shrunk.model.config.num_hidden_layers, model.config.num_hidden_layers} == {2, 3}
    shrunk.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    by_hand = shrinking.shrink(model, depth(0.67), inputs, batches=[inputs], modes=("eval",)).model
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs)[0], by_hand(**inputs)[0], rtol=0, atol=1e-6)
        cached = {"input_ids": inputs["input_ids"]}  # each layer has its own place in the cache
        torch.testing.assert_close(again(**cached)[0], by_hand(**inputs)[0], rtol=0, atol=1e-6)
    assert sum(p.numel() for p in again.parameters()) == shrunk.certificate.after.params
    with pytest.raises(SecateurError, match="the layers were renumbered"):
        shrunk.save(tmp_path / "small")


def test_a_config_is_asked_before_anything_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = []
    module = importlib.import_module("secateur.shrinking._draft")
    compare = module.compare
    monkeypatch.setattr(module, "compare", lambda *args: proofs.append(1) or compare(*args))
    model, inputs = made("BertModel", "BertConfig", TEXT)
    with pytest.warns(UserWarning, match="heads stayed"):
        shrink(model, 0.5, inputs, modes=("eval",))
    assert len(proofs) == 1


def test_heads_are_a_structure_of_their_own() -> None:
    from secateur import shrink as any_shrink

    model, inputs = made("BertModel", "BertConfig", TEXT)
    method = l1_filters(0.5, structure=attention_heads())
    small = any_shrink(model, method, inputs, modes=("eval",)).model
    assert small.encoder.layer[0].attention.self.query.weight.shape == (24, 48)
    assert small.encoder.layer[0].intermediate.dense.weight.shape == (64, 48)
    kinds = {group.kind for group in coupling.trace(model, kwargs=inputs).groups}
    assert kinds == {"units", "heads", "head width"}


def test_what_is_no_model_of_transformers_is_refused() -> None:
    with pytest.raises(SecateurError, match=r"`model` must be one of transformers.*got a Linear.*secateur\.shrink"):
        shrink(nn.Linear(2, 2), 0.5, torch.zeros(1, 2))
    model, inputs = made("BertModel", "BertConfig", TEXT)
    with pytest.raises(SecateurError, match="`kinds` must be some of units, heads, stream"):
        shrink(model, 0.5, inputs, kinds=("layers",))
    with pytest.raises(SecateurError, match="no BertConfig makes the smaller model"):
        shrink(model, 0.5, inputs, kinds=("heads",), modes=("eval",))
