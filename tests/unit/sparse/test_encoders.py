"""Torch's transformers with sparse layers: equal in all modes, also where torch's own take a short cut past layers."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, SecateurError, hold
from secateur.sparse import Machine, SparseAttention, SparseLinear, dense_shapes, densify, sparsify
from secateur.sparse.layers import _state as state
from secateur.sparse.transformers import SparseEncoder, SparseEncoderLayer
from secateur.sparse.transformers import _attention as attention
from transformer_cases import double, masks_of

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor")

Build = Callable[[], nn.Module]


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)


def encoder(**options: Any) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(layer(**options), 2, norm=nn.LayerNorm(16))


LAYERS: dict[str, Build] = {
    "relu": layer,
    "gelu": lambda: layer(activation="gelu"),
    "norm first": lambda: layer(norm_first=True),
    "no bias": lambda: layer(bias=False),
    "steps first": lambda: nn.TransformerEncoderLayer(16, 4, 24),
    "odd heads": lambda: nn.TransformerEncoderLayer(15, 3, 24, batch_first=True),
}


def sample(model: nn.Module, generator: torch.Generator) -> Tensor:
    size = next(m for m in model.modules() if isinstance(m, nn.LayerNorm)).normalized_shape[0]
    return torch.randn(3, 6, size, generator=generator)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("only", ["", "self_attn", "linear"])
def test_an_encoder_layer_equals_float64_in_each_mode(
    name: str, only: str, sparse_machine: Machine, generator: torch.Generator
) -> None:
    model = LAYERS[name]().eval()
    masks = Masks({n: m for n, m in masks_of(model).items() if only in n})
    fast, reference = sparsify(model, masks, machine=sparse_machine), double(model, masks)
    assert type(fast) is SparseEncoderLayer
    x = sample(model, generator)
    with torch.no_grad():
        torch.testing.assert_close(fast(x).double(), reference(x.double()), rtol=1e-4, atol=1e-5)
    for net in (fast, reference):
        for part in net.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        attend: Any = net.self_attn
        attend.dropout = 0.0
    y, want = fast.train()(x), reference.train()(x.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    want.square().sum().backward()
    plain = dict(reference.named_parameters())
    for path, module in fast.named_modules():
        if isinstance(module, SparseLinear):
            grad = module.plan.gather(plain[f"{path}.weight"].grad)  # type: ignore[arg-type]
            torch.testing.assert_close(module.values.grad.double(), grad, rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["short cut", "gradients", "training"])
@pytest.mark.parametrize("only", ["", "layers.1", "layers.0.linear1", "layers.1.self_attn"])
def test_a_padded_encoder_equals_the_masked_one(
    mode: str, only: str, sparse_machine: Machine, generator: torch.Generator
) -> None:
    model = encoder(dropout=0.0).train(mode == "training")
    masks = Masks({n: m for n, m in masks_of(model).items() if only in n})
    fast = sparsify(model, masks, machine=sparse_machine)
    assert type(fast) is SparseEncoder
    masks.apply_(model)
    x = sample(model, generator)
    padding = torch.arange(6) >= torch.tensor([6, 2, 4])[:, None]
    scattered = padding.flip(1)
    causal = nn.Transformer.generate_square_subsequent_mask(6).isinf()
    calls: list[dict[str, Any]] = [
        {}, {"src_key_padding_mask": padding}, {"src_key_padding_mask": scattered}, {"mask": causal, "is_causal": True},
        {"mask": causal}, {"mask": causal, "src_key_padding_mask": padding},
    ]  # fmt: skip
    with torch.set_grad_enabled(mode != "short cut"):
        for call in calls:
            # Where torch nests the samples, it leaves zeros under the padding, and so does the sparse one.
            torch.testing.assert_close(fast(x, **call), model(x, **call), rtol=1e-4, atol=1e-5)


def test_no_forward_builds_dense_weights(
    sparse_machine: Machine, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Subclass(nn.TransformerEncoderLayer):
        pass

    def never(*_: object, **__: object) -> Tensor:
        raise AssertionError("a dense weight was built")

    for kind in (nn.TransformerEncoderLayer, Subclass):
        one = kind(16, 4, 24, batch_first=True)
        model = nn.TransformerEncoder(one, 2).eval()
        fast = sparsify(model, masks_of(model), machine=sparse_machine)
        monkeypatch.setattr(attention, "built", never)
        monkeypatch.setattr(state, "built", never)
        with torch.no_grad():
            fast(sample(model, generator), src_key_padding_mask=torch.zeros(3, 6, dtype=torch.bool))
        monkeypatch.undo()


def test_a_decoder_and_a_whole_transformer(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = nn.Transformer(16, 4, 1, 2, 24, batch_first=True).eval()
    masks = masks_of(model)
    fast, reference = sparsify(model, masks, machine=sparse_machine), double(model, masks)
    assert sum(isinstance(m, SparseAttention) for m in fast.modules()) == 1 + 2 * 2
    x, y = torch.randn(3, 6, 16, generator=generator), torch.randn(3, 4, 16, generator=generator)
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    more = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
    with torch.no_grad():
        found = fast(x, y, tgt_mask=causal.isinf(), **more)
        want = reference(x.double(), y.double(), tgt_mask=causal.isinf(), **more)
    torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-5)


def test_forth_and_back_bit_for_bit(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = encoder().eval()
    model.layers[0].self_attn.in_proj_bias.requires_grad_(False)  # type: ignore[union-attr]
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    x = sample(model, generator)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert dense_shapes(fast)["layers.0.self_attn.in_proj_values"] == (48, 16)
    for twin in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin(x), fast(x))
        back = densify(twin)
        assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
        assert [(n, p.requires_grad) for n, p in back.named_parameters()] == [
            (n, p.requires_grad) for n, p in model.named_parameters()
        ]
        for name, tensor in model.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor) and torch.equal(twin.state_dict()[name], tensor)
        with torch.no_grad():
            assert torch.equal(back(x), model(x))  # the short cut is taken again
    trained = encoder().eval()
    with pytest.raises(RuntimeError, match=r"in_proj_weight has \d+ non-zero weights where the mask"):
        fast.load_state_dict(trained.state_dict())
    masks.apply_(trained)
    fast.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fast(x), trained(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fast.load_state_dict(trained.state_dict() | {"layers.0.self_attn.in_proj_values": torch.zeros(1)})


def test_trains_as_the_held_model_does(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = encoder(dropout=0.0)
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    hold(model, masks)
    x = sample(model, generator)
    for net in (model, fast):
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-3)
        for _ in range(6):
            optimizer.zero_grad()
            (net(x) - x).square().mean().backward()
            optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


COMPILED = """
import torch
from torch import nn
from transformer_cases import masks_of
from secateur.sparse import BreakEven, Machine, sparsify

model = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
fast = sparsify(model, masks_of(model), machine=Machine("", False, (BreakEven(64, 128, 0.6),)))
x, y = torch.randn(3, 4, 16), torch.randn(3, 6, 16)
compiled = torch.compile(fast, backend="eager")
torch.testing.assert_close(compiled(x, y), fast(x, y))
compiled(x, y).sum().backward()
assert fast.multihead_attn.in_proj_values.grad is not None
with torch.no_grad():
    torch.testing.assert_close(compiled.eval()(x, y), fast(x, y))
"""


@pytest.mark.slow
def test_compile_breaks_its_graph_at_the_products() -> None:
    # In a process of its own: where annotations are checked, the compiler looks into the checks.
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, env=os.environ | {"PYTHONPATH": paths})


@pytest.mark.filterwarnings("ignore:Sparse.* computes densely")
def test_under_autocast_it_is_as_exact_as_dense(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = encoder(dropout=0.0)
    masks = masks_of(model)
    fast, x = sparsify(model, masks, machine=sparse_machine), sample(model, generator)
    want = double(model, masks)(x.double())
    masks.apply_(model)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(net(x).double() - want).square().mean().sqrt() for net in (model, fast)]
    assert errors[1] <= 1.5 * errors[0]


def test_nested_samples_are_refused(sparse_machine: Machine) -> None:
    model = layer().eval()
    fast: Any = sparsify(model, masks_of(model), machine=sparse_machine)
    nested = torch.nested.nested_tensor([torch.randn(4, 16), torch.randn(2, 16)])
    with torch.no_grad():
        with pytest.raises(SecateurError, match="does not take nested tensors"):
            fast(nested)
        with pytest.raises(TypeError, match="does not take nested tensors"):
            fast.self_attn(nested, nested, nested)
