"""What a model costs, beside torch's own counter where that is right, closed formulas where it is not, and sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from coupling_nets import DenseConcat, UNet, grouped, residual, shuffled
from secateur import SecateurError
from secateur.costing import DRAM, SRAM, energy

X = torch.zeros


class Attends(nn.Module):
    """Attention of 3 heads, 5 places on 7, width 4, values of width 6."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Sums(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.einsum(self.equation, *tensors)


COUNTED: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "linear": (nn.Linear(4, 5), (X(3, 2, 4),)),
    "convolution in groups": (nn.Conv2d(4, 6, 3, 2, groups=2), (X(2, 4, 9, 9),)),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (X(2, 4, 5, 5),)),
    "one example alone": (nn.Conv1d(4, 6, 3), (X(4, 9),)),
    "cells": (nn.LSTMCell(4, 5), (X(2, 4),)),
    "attention": (Attends(), (X(2, 3, 5, 4), X(2, 3, 7, 4), X(2, 3, 7, 6))),
    "sums of pairs": (Sums("bij,bjk->bik"), (X(2, 3, 4), X(2, 4, 5))),
    "sums with dots": (Sums("...ij,...jk->...ik"), (X(2, 1, 3, 4), X(6, 4, 5))),
    "sums without a result": (Sums("ij,jk"), (X(3, 4), X(4, 5))),
    "sums of three": (Sums("ij,jk,kl->il"), (X(3, 4), X(4, 5), X(5, 6))),
    "residual": residual(),
    "grouped": grouped(),
    "shuffled": shuffled(),
    "dense": (DenseConcat(), (X(2, 3, 8, 8),)),
    "u-net": (UNet(), (X(2, 3, 8, 8),)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_products_are_those_of_torchs_own_counter(name: str) -> None:
    net, inputs = COUNTED[name]
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        net.eval()(*inputs)

    found = sc.cost(net, inputs, seconds=None)
    assert found.macs == theirs.get_total_flops() // 2 > 0
    assert found.macs == sum(layer.macs for layer in found.layers)


@pytest.mark.parametrize("kind, gates", [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("ways", [1, 2])
def test_recurrence_multiplies_each_weight_once_a_step(kind: type[nn.RNNBase], gates: int, ways: int) -> None:
    steps, batch, width, inputs = 7, 2, 5, 4
    net = kind(inputs, width, 2, bidirectional=ways == 2)  # pyright: ignore[reportArgumentType]
    found = sc.cost(net, X(steps, batch, inputs), seconds=None)

    weights = ways * gates * width * ((inputs + width) + (ways * width + width))
    assert found.macs == steps * batch * weights


def test_an_lstm_that_projects_multiplies_that_too() -> None:
    found = sc.cost(nn.LSTM(4, 6, proj_size=2), X(3, 1, 4), seconds=None)
    assert found.macs == 3 * (4 * 6 * (4 + 2) + 6 * 2)


def test_multi_head_attention_by_its_formula() -> None:
    length, width, inner = 5, 8, 16
    found = sc.cost(nn.TransformerEncoderLayer(width, 2, inner, batch_first=True), X(3, length, width), seconds=None)
    assert found.macs == 3 * (length * (4 * width * width + 2 * width * inner) + 2 * length * length * width)


def test_a_bilinear_layer_by_its_formula() -> None:
    assert sc.cost(nn.Bilinear(4, 5, 6), (X(3, 4), X(3, 5)), seconds=None).macs == 3 * 4 * 5 * 6


def test_totals_are_sums_and_tied_weights_count_once() -> None:
    one = nn.Linear(6, 6)
    net = nn.Sequential(one, nn.BatchNorm1d(6), one)
    found = sc.cost(net, X(2, 6), seconds=None)

    assert found.params == sum(p.numel() for p in net.parameters()) == 42 + 12
    assert found.bytes == 4 * (found.params + 12) + 8  # running statistics, and how many batches there were
    assert found.macs == 2 * 2 * 36
    assert [(layer.name, layer.params, layer.macs) for layer in found.layers] == [("0", 42, 144), ("1", 12, 0)]


def test_named_inputs_values_looked_at_and_meta() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.layer(x) if bool(x.sum() > 0) else x

    assert sc.cost(Looks(), {"x": torch.ones(2, 3)}, seconds=None).macs == 18
    with torch.device("meta"):
        huge = nn.Linear(100_000, 100_000)
    found = sc.cost(huge, X(1, 100_000, device="meta"))
    assert (found.macs, found.latency) == (10**10, None)


def test_nothing_of_the_model_is_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    net[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    sc.cost(net, torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), seconds=0.02)

    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_time_is_measured_as_a_whole_and_by_layer() -> None:
    net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
    found = sc.cost(net, X(32, 64), seconds=0.05)

    assert found.latency is not None
    assert found.latency.seconds > 0 and found.latency.runs >= 5 and found.latency.spread >= 0
    assert found.of("ms") == found.latency.seconds * 1e3
    assert all(layer.seconds is not None and layer.seconds > 0 for layer in found.layers)
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "kind", "params", "MACs", "bytes", "memory", "ms"]
    assert lines[-2].startswith("total") and lines[-1].startswith("one forward: ")


def test_a_sparsified_model_is_refused() -> None:
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
    fast = sc.sparsify(net, sc.prune(net, sc.methods.magnitude(0.05)))
    if any(getattr(module, "stores_survivors", False) for module in fast.modules()):
        with pytest.raises(SecateurError, match=r"`cost` needs the weights of all layers. The model is sparsified"):
            sc.cost(fast, X(4, 256))


def test_energy_is_that_of_the_table() -> None:
    found = sc.cost(nn.Linear(10, 10, bias=False), X(1, 10), seconds=None)
    assert found.energy() == pytest.approx(100 * DRAM + 100 * 4.6e-12)
    assert found.energy(fetch=SRAM) == pytest.approx(100 * 9.6e-12)
    assert 20 * energy(10**9) == pytest.approx(12.8)


def test_energy_of_what_masks_leave() -> None:
    net, x = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 4, bias=False)), X(3, 10)
    bits = torch.zeros(10, 10, dtype=torch.bool)
    bits[:2] = True  # a fifth of the first layer, all of the second
    found = sc.cost(net, x, seconds=None).energy(masks=sc.Masks({"0.weight": bits}))
    assert found == pytest.approx(60 * DRAM + 3 * 60 * 4.6e-12)


@pytest.mark.parametrize(
    ("model", "inputs", "seconds", "message"),
    [
        (nn.Linear(3, 3), X(2, 4), None, "`example_inputs` must be what the model is called with, but its forward"),
        (nn.Linear(3, 3), X(2, 3), 0.0, "`seconds` must be a time above 0, or None to measure none, got 0.0"),
    ],
)
def test_refusals(model: nn.Module, inputs: Tensor, seconds: float | None, message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        sc.cost(model, inputs, seconds=seconds)
