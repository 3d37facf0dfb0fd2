"""HashedNets: the hash against plain integers, sums of gradients by bucket, K numbers and no more."""

from __future__ import annotations

import math
import subprocess
import sys
import zlib

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, methods, prune
from secateur._base.errors import SecateurError
from secateur.gates.representations import looked_up, mixed


def _plain(place: int, salt: int) -> int:
    h = (place * 0x9E3779B1 + salt) % 2**32
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


@pytest.mark.parametrize("salt", [0, 1, 0xFFFFFFFF, 123456789])
def test_the_hash_is_that_of_plain_integers(salt: int) -> None:
    places = [0, 1, 2, 255, 65_537, 2**31 - 1, 2**31, 2**33 + 5]
    assert mixed(torch.tensor(places), salt).tolist() == [_plain(place, salt) for place in places]


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "import torch; from secateur.gates.representations import mixed; print(mixed(torch.arange(5), 42).tolist())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([_plain(place, 42) for place in range(5)])


def test_buckets_are_filled_evenly_and_signs_are_fair() -> None:
    layer = nn.Linear(400, 300, bias=False)
    Pruner(nn.Sequential(layer), methods.hashed(steps=1, ratio=0.01))
    (gate,) = gates(nn.Sequential(layer)).values()
    counts = torch.bincount(gate.codes.flatten().long(), minlength=1200).double()
    assert len(counts) == 1200 == len(gate.values)
    chi = float(((counts - 100) ** 2 / 100).sum())
    assert abs(chi - 1199) < 5 * math.sqrt(2 * 1199)
    assert abs(int(gate.signs.sum())) < 5 * math.sqrt(120_000)
    together = int((gate.signs.flatten() * (1 - 2 * (gate.codes.flatten() % 2))).sum())
    assert abs(together) < 5 * math.sqrt(120_000)  # a place's sign says nothing of its bucket


@pytest.mark.parametrize("fitted", [False, True])
def test_weights_and_gradients_by_bucket(fitted: bool) -> None:
    model = mlp()
    masks = prune(model, methods.magnitude(0.8))
    dense = weights(model)
    pruner = Pruner(model, methods.hashed(steps=3, ratio=0.2, seed=5, fitted=fitted))
    expanded = {}
    for name, gate in gates(model).items():
        n = dense[name].numel()
        count, salt = math.ceil(0.2 * n), zlib.crc32(name.encode()) ^ (5 * 0x9E3779B1)
        buckets = [_plain(i, salt) % count for i in range(n)]
        signs = [1 - 2 * (_plain(i, salt + 1) >> 31) for i in range(n)]
        flat, alive = dense[name].flatten(), masks[name].flatten()
        for k in range(count):
            own = [signs[i] * float(flat[i]) for i in range(n) if buckets[i] == k and alive[i]]
            start = (sum(own) / len(own) if fitted else own[0]) if own else 0.0
            assert gate.values[k].item() == pytest.approx(start, rel=1e-12)
        value = torch.tensor([signs[i] * gate.values[buckets[i]].item() * bool(alive[i]) for i in range(n)]).double()
        expanded[name] = value.reshape(dense[name].shape)
        torch.testing.assert_close(gate(dense[name]).detach(), expanded[name], rtol=1e-6, atol=1e-7)
        expanded[name] = gate(dense[name]).detach().requires_grad_()
    inputs, targets = batch(0)
    loss = F.cross_entropy(functional_call(mlp(), {**dense, **expanded}, inputs), targets)
    grads = dict(zip(expanded, torch.autograd.grad(loss, list(expanded.values())), strict=True))
    F.cross_entropy(model(inputs), targets).backward()
    for name, gate in gates(model).items():
        summed = torch.zeros(len(gate.values), dtype=torch.float64)
        summed.index_add_(0, gate.codes.flatten().long(), (grads[name] * gate.signs).flatten())
        torch.testing.assert_close(gate.values.grad, summed)
    pruner.release()


def test_first_and_second_derivatives_of_a_look_up() -> None:
    table = torch.randn(4, dtype=torch.float64, requires_grad=True)
    codes = torch.tensor([[0, 2, 2], [3, 0, 1]], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda t: looked_up(t, codes), [table])
    assert torch.autograd.gradgradcheck(lambda t: looked_up(t, codes).pow(3), [table])


def test_it_trains_folds_and_holds_no_more_values_than_it_says() -> None:
    model = mlp()
    pruner = Pruner(model, methods.hashed(steps=10, ratio=0.1))
    optimizer = sgd(model)
    pruner.adopt(optimizer)
    first = F.cross_entropy(model(batch(0)[0]), batch(0)[1]).item()
    for _ in range(40):
        train(model, optimizer, 0)
    outputs = model(batch(0)[0])
    assert F.cross_entropy(outputs, batch(0)[1]).item() < 0.8 * first
    assert pruner.finish().density == 1
    assert torch.equal(model(batch(0)[0]), outputs)
    for name in ("0.weight", "2.weight"):
        weight = model.get_parameter(name).detach()
        assert len(weight.abs().unique()) <= math.ceil(0.1 * weight.numel())


def test_fresh_weights_keep_their_spread() -> None:
    layer = nn.Linear(500, 200, bias=False)
    spread = float(layer.weight.detach().std())
    Pruner(nn.Sequential(layer), methods.hashed(steps=0, ratio=0.02)).finish()
    assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("ratio", [0.0, 1.5, -1.0])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(SecateurError, match="ratio"):
        methods.hashed(steps=1, ratio=ratio)
