"""Layers of one bit: the counts are those of a dense product of ±1, on every set of instructions and on torch."""

from __future__ import annotations

import copy
import os
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import methods
from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.gates import BinaryActivation
from secateur.sparse import BinaryLinear, binarisation_of, binarised
from secateur.sparse.calls import binary_by_torch, binary_layer, binary_linear

CASES = int(os.environ.get("SECATEUR_FUZZ", "40"))
OUTPUTS = (1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 130)
INPUTS = (1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 511, 512, 513, 700, 1023, 1025, 3001)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 31, 32, 33, 65, 100)
NATIVE: Any = door.native
SETS = [] if NATIVE is None else [*((isa, isa) for isa in NATIVE.supported_isas()), ("avx512", "vpopcntdq")]


@pytest.fixture(params=SETS or [pytest.param(None, marks=pytest.mark.skip(reason="no compiled kernels"))], ids=str)
def chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    isa, name = request.param
    before, threads = NATIVE.isa(), torch.get_num_threads()
    try:
        if isa in NATIVE.supported_isas():
            NATIVE.use_isa(isa)
        if name not in NATIVE.binary_sets():
            pytest.skip(f"{name} is not possible with {isa} here")
        NATIVE.use_binary_set(name)
        assert NATIVE.binary_set() == name
        yield
    finally:
        NATIVE.use_binary_set("")
        NATIVE.use_isa(before)
        torch.set_num_threads(threads)


def signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).mul(2).sub(1)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Weights of ±1, some pruned, samples whose rows lie apart, scales, and a bias."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(draw.choice([1, 2, 3]))
    outputs, inputs, samples = draw.choice(OUTPUTS), draw.choice(INPUTS), draw.choice(BATCHES)
    weight = signs(outputs, inputs)
    if draw.random() < 0.5:
        weight *= torch.rand(outputs, inputs) < draw.choice([0.0, 0.1, 0.9])
    x = signs(samples, inputs + 3).float()[:, 1 : inputs + 1]
    scales = torch.rand(outputs) * 3 if draw.random() < 0.5 else torch.ones(outputs)
    return weight.to(torch.int8), x, scales, torch.randn(outputs) if draw.random() < 0.5 else None


def test_counts_are_exact_and_torch_computes_the_same_bits(chosen: None) -> None:
    for seed in range(CASES):
        weight, x, scales, bias = drawn(seed)
        got = binary_linear(x, binary_layer(weight), scales, bias)
        whole = x.to(torch.int64) @ weight.to(torch.int64).t()
        want = whole.float() * scales
        want = want if bias is None else want + bias
        assert torch.equal(got, want), (seed, weight.shape, x.shape)
        assert torch.equal(binary_by_torch(x, weight.float(), scales, bias), want), (seed, weight.shape, x.shape)


def test_an_input_that_is_neither_is_found_wherever_it_is(chosen: None) -> None:
    weight = signs(3, 530).to(torch.int8)
    layer, ones = binary_layer(weight), torch.ones(3)
    for place in (0, 15, 16, 511, 512, 519, 529):
        for wrong in (0.0, -0.0, 0.5, 1.0000001, float("nan"), float("inf"), -2.0):
            x = signs(5, 530).float()
            x[3, place] = wrong
            with pytest.raises(SecateurError, match=r"\+1 or −1"):
                binary_linear(x, layer, ones, None)
            with pytest.raises(SecateurError, match=r"\+1 or −1"):
                binary_by_torch(x, weight.float(), ones, None)


@pytest.mark.skipif(NATIVE is None, reason="no compiled kernels")
def test_the_kernels_refuse_what_does_not_fit() -> None:
    layer = NATIVE.BinaryLayer(2, 3, *(torch.ones(6, dtype=torch.uint8).numpy() for _ in range(2)))
    assert layer.rows == 2 and layer.bytes == 2 * 64 + 8
    x, y, a = torch.ones(4, 3), torch.empty(8), torch.ones(2)
    good = [x.data_ptr(), 3, 4, 3, a.data_ptr(), 2, 0, 0, y.data_ptr(), 8, 1]
    assert layer.forward(*good) and y.tolist() == [3.0] * 8
    for index, wrong in ((0, 0), (1, -1), (2, 0), (3, 4), (5, 3), (9, 7)):
        with pytest.raises(ValueError):
            layer.forward(*good[:index], wrong, *good[index + 1 :])
    for rows, columns in ((0, 3), (2, 0), (2, 4), (1 << 40, 1 << 40)):
        with pytest.raises((ValueError, OverflowError)):
            NATIVE.BinaryLayer(rows, columns, *(torch.ones(6, dtype=torch.uint8).numpy() for _ in range(2)))
    with pytest.raises(ValueError, match="no set for bits called 'mmx'"):
        NATIVE.use_binary_set("mmx")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 40), nn.BatchNorm1d(40), BinaryActivation(), nn.Linear(40, 30), nn.BatchNorm1d(30),
        BinaryActivation(), nn.Linear(30, 4),
    )  # fmt: skip


def test_a_network_that_was_binarised_computes_the_same_as_bits() -> None:
    net, x, y = network(), torch.randn(200, 12), torch.randint(4, (200,))
    masks = sc.prune(net, methods.random(0.7), only="3.*", generator=torch.Generator().manual_seed(0))
    pruner = sc.Pruner(net, methods.binarise(steps=20))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    pruner.finish()
    net.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    small = binarised(net, example_inputs=x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [type(small[i]) for i in (0, 3, 6)] == [nn.Linear, BinaryLinear, BinaryLinear]
    assert torch.equal(small[3].weight != 0, masks["3.weight"])
    with torch.no_grad():
        want = net(x)
        assert torch.allclose(small(x), want, rtol=1e-5, atol=1e-5)
        hidden = net[:3](x)
        assert torch.equal(small[3](hidden), hidden @ net[3].weight.t() + net[3].bias)  # of whole numbers: exact
        for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), sc.densify(small)):
            assert torch.allclose(other(x), want, rtol=1e-5, atol=1e-5)
    lines = binarisation_of(small).layers
    assert [line.why_not is None for line in lines] == [False, True, True]
    assert lines[0].why_not == "its inputs are not +1 and −1" and lines[1].bytes == 30 * (128 + 4)
    assert small.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in net.state_dict().items())


def test_types_shapes_and_batches() -> None:
    layer = BinaryLinear(signs(5, 70).to(torch.int8), torch.ones(5), None)
    x = signs(2, 3, 70)
    want = (x @ layer.signs.to(torch.int64).t()).float()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        got = layer(x.to(dtype))
        assert got.dtype is dtype and torch.equal(got.float(), want)
    assert layer(torch.ones(0, 70)).shape == (0, 5) and layer(x[0, 0].float()).shape == (5,)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x.float()).dtype is torch.bfloat16


def test_what_it_cannot_do_is_refused() -> None:
    layer = BinaryLinear(signs(2, 3).to(torch.int8), torch.ones(2), None)
    with pytest.raises(SecateurError, match="no gradients"):
        layer(torch.ones(1, 3, requires_grad=True))
    with pytest.raises(ValueError, match="3 features, got 4"):
        layer(torch.ones(1, 4))
    with pytest.raises(SecateurError, match="do not train"):
        layer.train()
    with pytest.raises(SecateurError, match="several magnitudes"):
        BinaryLinear.from_dense(nn.Linear(3, 2))
    with pytest.raises(SecateurError, match="no linear layer of ±1"):
        binarised(network(), example_inputs=torch.randn(3, 12))
    with pytest.raises(SecateurError, match="does not run on them"):
        binarised(network(), example_inputs=torch.randn(3, 13))
    with pytest.raises(ValueError, match="was not made by"):
        binarisation_of(network())
