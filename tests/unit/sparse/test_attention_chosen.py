"""What `sparsify` chooses for attention and torch's transformers, at what it times them, and why some stay dense."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks
from secateur.sparse import Machine, SparseAttention, densify, report_of, sparsify
from timed_cases import DENSE, SPARSE, Clock
from transformer_cases import masks_of

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor")


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2)


def test_everything_is_timed_as_it_is_used(clock: Clock, generator: torch.Generator) -> None:
    model = nn.Transformer(16, 4, 1, 1, 24, batch_first=True).eval()
    masks = masks_of(model)
    padding = torch.arange(6) >= torch.tensor([6, 2, 4])[:, None]
    inputs = {
        "src": torch.randn(3, 6, 16, generator=generator), "tgt": torch.randn(3, 4, 16, generator=generator),
        "src_key_padding_mask": padding,
    }  # fmt: skip
    clock.models = [DENSE]
    fast = sparsify(model, masks, example_inputs=inputs)
    lines = {line.name: line for line in report_of(fast).layers}
    assert lines.keys() == masks.keys()
    assert "inference at 3 × 4 × 16, keys 3 × 6 × 16" in lines["decoder.layers.0.multihead_attn.in_proj_weight"].reason
    assert lines["encoder.layers.0.self_attn.out_proj.weight"].reason.startswith("the whole attention: ")
    assert any("num_heads 4" in kind for kind in clock.asked)
    with torch.no_grad():  # timed in this mode: no further choices
        fast(**inputs)


def test_what_stays_dense_runs_as_torch_does(clock: Clock, generator: torch.Generator) -> None:
    model, x = encoder().eval(), torch.randn(3, 6, 16, generator=generator)
    masks = masks_of(model)
    clock.layers, clock.models = (lambda kind: DENSE), [DENSE, DENSE]
    fast = sparsify(model, masks, example_inputs=x)
    assert [type(m) for m in fast.modules()] == [type(m) for m in model.modules()]
    masks.apply_(model)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
    fast.train()(x).sum().backward()
    weight = fast.get_parameter("layers.1.self_attn.in_proj_weight")
    assert not weight.grad[~masks["layers.1.self_attn.in_proj_weight"]].any()  # type: ignore[index]
    assert type(densify(fast)) is nn.TransformerEncoder


def test_attention_chooses_at_its_first_calls(clock: Clock, generator: torch.Generator) -> None:
    model = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 64, generator=generator)
    clock.models = [DENSE]
    fast: Any = sparsify(model, masks_of(model), example_inputs=(x, x, x))
    assert isinstance(fast, SparseAttention)
    clock.first_calls = [SPARSE, DENSE]  # with gradients: the input projections are faster dense, then the output
    fast(x, x, x)
    fast(x, x, x)
    assert not clock.first_calls
    with torch.no_grad():
        fast(x, x, x)
    clock.first_calls = [SPARSE, SPARSE]
    other = x + 1
    fast(x, other, other)  # other rows of the weight: a choice of their own; the output projection has its own
    assert not clock.first_calls


class Own(nn.MultiheadAttention):
    """Somebody's own attention."""


def test_reasons_that_keep_attention_dense(sparse_machine: Machine) -> None:
    def reasons(model: nn.Module, masks: Masks) -> set[str]:
        fast = sparsify(model, masks, machine=sparse_machine)
        assert not any(isinstance(m, SparseAttention) for m in fast.modules())
        assert set(report_of(fast).not_held) == {n for n in masks if not masks[n].all()}
        return {line.reason for line in report_of(fast).layers}

    plain = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    masks = masks_of(plain)
    assert reasons(Own(8, 2), masks) == {"it is a Own, not a plain nn.MultiheadAttention"}
    halves = Masks({**masks, "in_proj_bias": torch.arange(24) > 3})
    assert "its in_proj_bias is masked too" in reasons(plain, halves)
    keys = Masks({**masks, "bias_k": torch.ones(1, 1, 8) < 0})
    assert "its bias_k is masked too" in reasons(plain, keys)
    out = Masks({**masks, "out_proj.bias": torch.arange(8) > 3})
    assert "its out_proj: its bias is masked too" in reasons(plain, out)
    assert "float64 on cpu" in str(reasons(copy.deepcopy(plain).double(), masks))
    whole = Masks({n: torch.ones_like(m) for n, m in masks.items()})
    assert reasons(plain, whole) == {"its mask keeps every weight"}
    replaced = copy.deepcopy(plain)
    replaced.out_proj = nn.Linear(8, 8)  # type: ignore[assignment]
    assert reasons(replaced, masks) == {"its out_proj is a Linear, not the layer that torch puts there"}
    shared = nn.ModuleList([plain, copy.deepcopy(plain)])
    shared[1].in_proj_weight = plain.in_proj_weight
    named = Masks({"0.in_proj_weight": masks["in_proj_weight"]})
    assert "its parameters are shared with another layer" in reasons(shared, named)
