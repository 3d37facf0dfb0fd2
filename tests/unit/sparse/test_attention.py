"""Sparse attention: what `nn.MultiheadAttention` computes in float64 with masked weights, for all that it takes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks
from secateur.sparse import BreakEven, Machine, SparseAttention, SparseLinear, sparsify
from secateur.sparse.calls import release_workspaces
from transformer_cases import double, masks_of

SIZE, HEADS, BATCH, QUERIES, KEYS = 16, 4, 3, 5, 7


def sparse_of(module: nn.MultiheadAttention, masks: Masks, machine: Machine) -> SparseAttention:
    found = sparsify(module, masks, machine=machine)
    assert isinstance(found, SparseAttention) and isinstance(found.out_proj, SparseLinear)
    return found


def inputs(which: str, kdim: int, vdim: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [batch, length, features]: the same tensor, one for keys and values, or three."""
    q = torch.randn(BATCH, QUERIES, SIZE, generator=generator)
    k, v = (torch.randn(BATCH, KEYS, size, generator=generator) for size in (kdim, vdim))
    return {"self": (q, q, q), "cross": (q, k, k), "apart": (q, k, v)}[which]


def masks_for(keys: int, which: str, generator: torch.Generator) -> dict[str, Any]:
    """Boolean and float masks that leave each query a key to attend to."""
    flat = torch.rand(QUERIES, keys, generator=generator) < 0.4
    each = torch.rand(BATCH * HEADS, QUERIES, keys, generator=generator) < 0.4
    padding = torch.arange(keys) >= torch.tensor([keys, 2, keys - 1])[:, None]
    flat[:, 0] = each[:, :, 0] = False
    added = {"attn_mask": torch.randn(QUERIES, keys, generator=generator)}
    return {
        "none": {},
        "flat": {"attn_mask": flat},
        "each": {"attn_mask": each},
        "added": added,
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": flat, "key_padding_mask": padding},
    }[which]


def compare(module: nn.MultiheadAttention, masks: Masks, machine: Machine, call: list[Tensor], options: Any) -> None:
    """Outputs, weights, and the gradients of inputs and parameters, against float64 of torch."""
    reference: Any = double(module, masks)
    sparse = sparse_of(module, masks, machine)
    results = []
    for net, kind in ((reference, torch.float64), (sparse, torch.float32)):
        made: dict[int, Tensor] = {}
        for x in call:  # what is one tensor here is one there
            made.setdefault(id(x), x.detach().to(kind, copy=True).requires_grad_())
        given = {n: m.to(kind) if torch.is_tensor(m) and m.is_floating_point() else m for n, m in options.items()}
        out, weights = net(*(made[id(x)] for x in call), **given)
        loss = out.square().sum() + (0 if weights is None else weights.square().sum())
        loss.backward()
        results.append((out, weights, [x.grad for x in made.values()]))
    (want, want_weights, want_grads), (out, weights, grads) = results
    close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(out, want, **close)
    torch.testing.assert_close(weights, want_weights, **close)
    torch.testing.assert_close(grads, want_grads, **close)
    for name, plan in sparse.plans.items():
        values = sparse.get_parameter(name.removesuffix("weight") + "values")
        torch.testing.assert_close(values.grad, plan.gather(reference.get_parameter(name).grad), **close)
    for name, parameter in sparse.named_parameters():
        if "bias" in name:
            torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, **close)


BUILDS = list(itertools.product((True, False), (True, False), (False, True), (False, True)))


@pytest.mark.parametrize(("batch_first", "bias", "kv", "zero"), BUILDS)
@pytest.mark.parametrize("which", ["self", "cross", "apart", "separate"])
def test_every_kind_of_module_equals_float64(
    batch_first: bool, bias: bool, kv: bool, zero: bool, which: str, sparse_machine: Machine, generator: torch.Generator
) -> None:
    kdim, vdim = (10, 6) if which == "separate" else (SIZE, SIZE)
    module = nn.MultiheadAttention(
        SIZE, HEADS, bias=bias, add_bias_kv=kv, add_zero_attn=zero, kdim=kdim, vdim=vdim, batch_first=batch_first
    )
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    call = list(inputs("apart" if which == "separate" else which, kdim, vdim, generator))
    if not batch_first:
        turned = {id(x): x.transpose(0, 1) for x in call}
        call = [turned[id(x)] for x in call]
    keys = QUERIES if which == "self" else KEYS
    for options in (masks_for(keys, "both", generator) | {"need_weights": False}, {}):
        compare(module, masks_of(module), sparse_machine, call, options)


@pytest.mark.parametrize("mask", ["none", "flat", "each", "added", "padding", "both"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kv", [True, False])
def test_every_kind_of_mask_equals_float64(
    mask: str, need_weights: bool, kv: bool, sparse_machine: Machine, generator: torch.Generator
) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, add_bias_kv=kv, add_zero_attn=kv, batch_first=True)
    call = list(inputs("cross", SIZE, SIZE, generator))
    options = masks_for(KEYS, mask, generator) | {"need_weights": need_weights, "average_attn_weights": kv}
    compare(module, masks_of(module), sparse_machine, call, options)


def test_a_causal_hint_is_taken_as_torch_takes_it(sparse_machine: Machine, generator: torch.Generator) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    call = list(inputs("self", SIZE, SIZE, generator))
    causal = nn.Transformer.generate_square_subsequent_mask(QUERIES)
    padding = masks_for(QUERIES, "padding", generator)
    for more in ({"need_weights": False}, {"need_weights": True}, {"need_weights": False, **padding}):
        boolean = causal.isinf() if "key_padding_mask" in more else causal
        compare(module, masks_of(module), sparse_machine, call, {"attn_mask": boolean, "is_causal": True, **more})
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        sparse_of(module, masks_of(module), sparse_machine)(*call, is_causal=True)


@pytest.mark.parametrize("batch_first", [True, False])
def test_one_sequence_without_a_batch(batch_first: bool, sparse_machine: Machine, generator: torch.Generator) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=batch_first)
    query, key, _ = inputs("cross", SIZE, SIZE, generator)
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        compare(module, masks_of(module), sparse_machine, [query[0], key[0], key[0]], options)


def test_more_columns_than_one_block_of_the_kernels(sparse_machine: Machine, generator: torch.Generator) -> None:
    # The rows of queries, keys and values are then not ranges of the packed values.
    module = nn.MultiheadAttention(1440, 2, batch_first=True)
    x, y = (torch.randn(1, 2, 1440, generator=generator) for _ in range(2))
    for call in ([x, x, x], [x, y, y]):
        compare(module, masks_of(module, 0.02), sparse_machine, call, {"need_weights": False})


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_draws_what_torch_draws(
    need_weights: bool, sparse_machine: Machine, generator: torch.Generator
) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, dropout=0.4, batch_first=True)
    masks = masks_of(module)
    masks.apply_(module)
    sparse = sparse_of(module, masks, sparse_machine)
    x = inputs("self", SIZE, SIZE, generator)
    for net in (module, sparse):  # evaluation is exact
        net.eval()
    torch.testing.assert_close(sparse(*x)[0], module(*x)[0])
    for net in (module, sparse):
        net.train()
    found = []
    for net in (module, sparse):
        torch.manual_seed(5)
        found.append(torch.stack([net(*x, need_weights=need_weights)[0] for _ in range(400)]).detach())
    assert not torch.equal(found[1][0], found[1][1])
    torch.testing.assert_close(found[1].mean(0), found[0].mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(found[1].std(0), found[0].std(0), rtol=0.3, atol=0.05)


def test_dense_products_of_the_survivors(generator: torch.Generator) -> None:
    machine = Machine("", True, (BreakEven(64, 128, 0.0001),))  # nothing is sparse enough
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=True).eval()
    masks = masks_of(module)
    for which in ("self", "cross", "apart"):
        call = list(inputs(which, SIZE, SIZE, generator))
        compare(module, masks, machine, call, {"need_weights": False})
    sparse = sparse_of(module, masks, machine)
    masks.apply_(module)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(sparse(*call)[0], module(*call)[0])
            sparse.get_parameter("in_proj_values").mul_(0.5)  # seen, though the products are built once
            module.in_proj_weight.mul_(0.5)


@pytest.mark.parametrize("limit", [0.0001, 0.6])
def test_a_first_call_in_inference_mode_leaves_training_alone(limit: float, generator: torch.Generator) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    sparse = sparse_of(module, masks_of(module), Machine("", False, (BreakEven(64, 128, limit),)))
    call = inputs("cross", SIZE, SIZE, generator)
    with torch.inference_mode():
        want = sparse(*call)[0].clone()
    found = sparse(*call)[0]
    found.square().sum().backward()
    torch.testing.assert_close(found, want)
    assert sparse.get_parameter("in_proj_values").grad is not None


def test_only_some_of_the_weights_are_masked(sparse_machine: Machine, generator: torch.Generator) -> None:
    call = list(inputs("cross", SIZE, SIZE, generator))
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    masks = masks_of(module)
    for name in masks:
        one = Masks({name: masks[name]})
        sparse: Any = sparsify(module, one, machine=sparse_machine)
        assert isinstance(sparse, SparseAttention)
        reference: Any = double(module, one)
        want = reference(*(x.double() for x in call))[0]
        torch.testing.assert_close(sparse(*call)[0].double(), want, rtol=1e-4, atol=1e-5)
        assert list(sparse.state_dict()) == list(module.state_dict())


def test_copies_share_nothing_that_is_trained(sparse_machine: Machine, generator: torch.Generator) -> None:
    module = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    sparse = sparse_of(module, masks_of(module), sparse_machine).eval()
    call = inputs("cross", SIZE, SIZE, generator)
    with torch.no_grad():
        before = sparse(*call)[0].clone()
        twin = copy.deepcopy(sparse)
        for parameter in twin.parameters():
            parameter.mul_(2)
        assert torch.equal(sparse(*call)[0], before) and not torch.equal(twin(*call)[0], before)
    release_workspaces()
