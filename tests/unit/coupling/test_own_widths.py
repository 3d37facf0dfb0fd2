"""Attention that holds its own widths: equal to what it stands for, cut by heads, and given back where nothing went."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, coupling, shrink
from secateur.coupling import OwnHeads, OwnPositions, OwnWindows, hold_own_widths, settle
from window_nets import Positions, Windows


def heads(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"kdim": 8, "vdim": 6}, {"bias": False}, {"dropout": 0.5}],
    ids=["plain", "batch first", "own widths of key and value", "no bias", "dropout"],
)
@pytest.mark.parametrize("mask", ["none", "added", "causal", "per head"])
@pytest.mark.parametrize("padded", [False, True])
def test_heads_are_those_of_torch(options: dict[str, Any], mask: str, padded: bool) -> None:
    torch_s = heads(**options)
    own = copy.deepcopy(torch_s)
    hold_own_widths(own)
    assert isinstance(own, OwnHeads)
    query = torch.randn(2, 5, 12).double()
    key, value = (torch.randn(2, 7, options.get(name, 12)).double() for name in ("kdim", "vdim"))
    if not options.get("batch_first"):
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    padding = torch.arange(7).expand(2, 7) > torch.tensor([[4], [6]])
    attn_mask = {
        "none": None,
        "added": torch.randn(5, 7).double(),
        "causal": torch.ones(5, 7, dtype=torch.bool).triu(1),
        "per head": (torch.rand(6, 5, 7) > 0.7) & (torch.arange(7) > 0),  # the first key stays
    }[mask]
    if mask == "added":
        padding = torch.zeros(2, 7).double().masked_fill(padding, -math.inf)
    for need_weights, average in itertools.product((True, False), repeat=2):
        named = {"key_padding_mask": padding if padded else None, "attn_mask": attn_mask}
        named |= {"need_weights": need_weights, "average_attn_weights": average}
        wanted, found = torch_s(query, key, value, **named), own(query, key, value, **named)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)
        assert (found[1] is None) == (wanted[1] is None)
        if wanted[1] is not None:
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-12, atol=1e-12)


def test_one_sequence_without_a_batch() -> None:
    torch_s = heads()
    own = copy.deepcopy(torch_s)
    hold_own_widths(own)
    x, padding = torch.randn(5, 12).double(), torch.arange(5) > 3
    for wanted, found in zip(*(each(x, x, x, key_padding_mask=padding) for each in (torch_s, own)), strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match="is_causal"):
        own(x, x, x, is_causal=True)


def test_what_torch_alone_can_do_stays_torch_s() -> None:
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        module = heads(**options)
        hold_own_widths(module)
        assert type(module) is nn.MultiheadAttention


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("window", "shift", "size"),
    [
        ([4, 4], [0, 0], (8, 8)),
        ([4, 4], [2, 2], (8, 8)),
        ([4, 4], [2, 2], (7, 9)),
        ([4, 4], [2, 2], (4, 9)),
        ([3, 5], [1, 2], (7, 11)),
        ([4, 4], [2, 2], (3, 3)),
    ],
)
def test_windows_are_those_of_the_papers(
    second: bool, bias: bool, window: list[int], shift: list[int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = Windows(12, window, shift, 3, bias=bias, second=second).double()
    own = copy.deepcopy(plain)
    hold_own_widths(own)
    assert isinstance(own, OwnWindows)
    x = torch.randn(2, *size, 12).double()
    torch.testing.assert_close(own(x), plain(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tokens", [None, 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_positions_are_those_of_beit(tokens: int | None, bias: bool, shared: bool) -> None:
    torch.manual_seed(0)
    plain = Positions(12, 3, tokens=tokens, bias=bias).double()
    own = copy.deepcopy(plain)
    hold_own_widths(own)
    assert isinstance(own, OwnPositions)
    x, more = torch.randn(2, 5, 12).double(), torch.randn(1, 3, 5, 5).double() if shared else None
    torch.testing.assert_close(own(x, more), plain(x, more), rtol=1e-12, atol=1e-12)


KINDS = [heads, lambda: Windows(12, [4, 4], [2, 2], 3), lambda: Positions(12, 3, tokens=5)]


@pytest.mark.parametrize(("make", "size"), [(KINDS[1], (5, 7)), (KINDS[2], (5,))], ids=["windows", "positions"])
def test_heads_go_though_the_stream_stays(make: Any, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(12), make(), nn.LayerNorm(12)).eval()
    small, certificate, _ = shrink(net, 0.4, torch.randn(2, *size, 12))
    assert small[1].num_heads == 1 and small[1].proj.weight.shape[0] == 12 and certificate.worst < 1e-10


@pytest.mark.parametrize("make", KINDS)
def test_what_lost_nothing_is_given_back(make: Any) -> None:
    module = make()
    before, kind = dict(vars(module)), type(module)
    hold_own_widths(module)
    assert type(module) is not kind
    settle(module)
    assert type(module) is kind and vars(module) == before


class Reader(nn.Module):
    """Self-attention over a stream of fixed width; `weights` says what becomes of the weights of the heads."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.first, self.last, self.weights = nn.Linear(5, 12), nn.Linear(12, 3), weights
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        y, weights = self.attention(x, x, x)
        if self.weights == "branch" and weights.sum() < 0:
            return x
        if self.weights == "listed" and weights.mean((0, 2)).tolist()[0] < 0:
            return x
        out = self.last(self.norm(x + y))
        return (out, weights) if self.weights == "returned" else out


def reader(weights: str) -> tuple[Reader, Tensor]:
    torch.manual_seed(0)
    return Reader(weights).eval(), torch.randn(2, 4, 5)


def test_weights_that_nobody_reads_do_not_keep_the_heads() -> None:
    net, x = reader("dropped")
    small = shrink(net, 0.4, x).model
    assert isinstance(small.attention, OwnHeads) and small.attention.num_heads == 1


@pytest.mark.parametrize("weights", ["returned", "branch", "listed"])
def test_weights_that_are_used_keep_the_heads(weights: str) -> None:
    net, x = reader(weights)
    small = shrink(net, 0.4, x).model
    assert small.attention.num_heads == 3


def test_a_head_of_which_nothing_is_left_goes() -> None:
    net, x = reader("dropped")
    mask = torch.ones(36, 12, dtype=torch.bool)
    mask.view(3, 3, 4, 12)[:, 1] = False  # queries, keys and values of the second head
    small, certificate, manifest = shrink(net, Masks({"attention.in_proj_weight": mask}), x)
    assert (small.attention.num_heads, small.attention.head_dim, small.attention.value_dim) == (2, 4, 4)
    assert small.attention.in_proj_weight.shape == (24, 12) and certificate.worst < 1e-10
    net.attention.in_proj_weight.data[~mask] = 0
    net.attention.in_proj_bias.data[~mask[:, 0]] = 0
    torch.testing.assert_close(small(x), net(x))
    assert manifest.numbers["attention.num_heads"] == (3, 2)
    again = shrink(small, 0.5, x).model
    assert again.attention.num_heads == 1


def test_a_mask_for_the_heads_that_there_were_is_refused() -> None:
    net, x = reader("dropped")
    small = shrink(net, 0.7, x).model.attention
    assert small.num_heads == 2
    stream = torch.randn(1, 4, 12)
    with pytest.raises(RuntimeError):
        small(stream, stream, stream, attn_mask=torch.zeros(4, 4, 4))  # two of them would pass for two examples


def test_an_encoder_that_lost_heads_takes_padding_masks() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True)
    net, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 4, 12)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    small = shrink(net, 0.5, x).model
    assert small.layers[0].self_attn.num_heads == 2 and not small.use_nested_tensor and net.use_nested_tensor
    twin = pickled(small)
    with torch.no_grad():
        fast = small(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast, twin(x, src_key_padding_mask=padding))


def pickled(module: nn.Module) -> nn.Module:
    import pickle

    return pickle.loads(pickle.dumps(module))


def test_a_trace_leaves_the_model_as_it_was() -> None:
    net, x = reader("dropped")
    coupling.trace(net, x)
    shrink(net, 0.5, x)
    assert type(net.attention) is nn.MultiheadAttention and not hasattr(net.attention, "was")
