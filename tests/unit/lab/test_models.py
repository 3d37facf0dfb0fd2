"""The networks: parameter counts of the paper and its code, shapes, determinism, what the layers really compute."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur._base.errors import SecateurError
from secateur.lab import models
from secateur.masks import prunable
from secateur.selection import kept_count

# name: weights (where the card has them), N = weights and biases, the tables' density, parameters kept there.
COUNTS = {
    "lenet-300-100": (266_200, 266_610, 0.05, 13_331),
    "lenet-5-caffe": (430_500, 431_080, 0.02, 8_622),
    "lenet-5-caffe-relu": (430_500, 431_080, 0.02, 8_622),
    "lenet-5-bn": (430_500, 431_080, 0.02, 8_622),
    "alexnet-s": (None, 5_070_218, 0.10, 507_022),
    "alexnet-b": (None, 8_490_378, 0.10, 849_038),
    "vgg-c": (None, 10_526_538, 0.05, 526_327),
    "vgg-d": (None, 15_245_130, 0.05, 762_257),
    "vgg-like": (None, 14_982_474, 0.03, 449_474),
    "wrn-16-8": (None, 10_954_170, 0.05, 547_709),
    "wrn-16-10": (None, 17_107_642, 0.05, 855_382),
    "wrn-22-8": (None, 17_147_322, 0.05, 857_366),
    "lstm-s": (None, 136_586, 0.05, 6_829),
    "lstm-b": (None, 535_306, 0.05, 26_765),
    "gru-s": (None, 103_690, 0.05, 5_185),
    "gru-b": (None, 403_978, 0.05, 20_199),
}


def _build(name: str, **options: object) -> nn.Module:
    return models.build(name, generator=torch.Generator().manual_seed(0), **options)  # type: ignore[arg-type]


def test_the_catalogue_holds_the_paper_and_its_counts() -> None:
    entries = models.catalogue()
    assert list(entries) == list(COUNTS)
    for name, (weights, total, density, kept) in COUNTS.items():
        counts = entries[name].counts
        assert counts.total == total, name
        assert weights is None or counts.weights == weights, name
        assert kept_count(density, total) == kept, name
        assert entries[name].summary and entries[name].name == name


def test_wide_nets_count_their_normalisation_as_the_card_says() -> None:
    totals = {name: entry.counts.total + entry.counts.norms for name, entry in models.catalogue().items()}
    assert (totals["wrn-16-10"], totals["wrn-22-8"]) == (17_116_634, 17_158_106)


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5-caffe", "vgg-c", "wrn-16-8", "lstm-s", "gru-s"])
def test_what_is_counted_is_what_can_be_pruned(name: str) -> None:
    model, counts = _build(name), models.catalogue()[name].counts
    assert models.count(model) == counts
    assert sum(p.numel() for p in prunable(model).values()) == counts.weights
    assert sum(p.numel() for p in prunable(model, biases=True).values()) == counts.total
    assert sum(p.numel() for p in model.parameters()) == counts.total + counts.norms


def test_frozen_parameters_are_not_counted() -> None:
    layer = nn.Linear(4, 3)
    layer.bias.requires_grad_(False)
    assert models.count(layer) == models.Counts(weights=12, biases=0, norms=0)


@pytest.mark.parametrize("name", list(COUNTS))
def test_every_net_maps_the_papers_inputs_to_scores(name: str) -> None:
    entry = models.catalogue()[name]
    with torch.device("meta"):
        x = torch.empty(2, *entry.in_shape)
    model = _build(name).to("meta").eval()
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "in_shape"),
    [
        ("lenet-300-100", (1, 8, 8)),
        ("lenet-5-caffe", (3, 32, 32)),
        ("lenet-5-caffe", (1, 16, 17)),
        ("alexnet-s", (1, 8, 8)),
        ("alexnet-s", (1, 28, 28)),
        ("vgg-like", (1, 8, 8)),
        ("vgg-like", (1, 28, 28)),
        ("wrn-10-1", (1, 8, 8)),
        ("wrn-10-1", (1, 28, 28)),
        ("lstm-s", (1, 8, 8)),
        ("gru-s", (3, 32, 32)),
        ("mlp-64-5-7", (1, 8, 8)),
    ],
)
def test_nets_take_other_shapes(name: str, in_shape: tuple[int, ...]) -> None:
    model = _build(name, in_shape=in_shape, num_classes=7)
    scores = model(torch.randn(3, *in_shape))
    assert scores.shape == (3, 7) and scores.isfinite().all()
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_generator_alone_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    first = _build("lenet-300-100").state_dict()
    torch.random.set_rng_state(torch.Generator().manual_seed(99).get_state())
    again = _build("lenet-300-100").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.random.set_rng_state(before)
    other = models.build("lenet-300-100", generator=torch.Generator().manual_seed(1)).state_dict()
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_chains_are_flat_and_named() -> None:
    lenet = _build("lenet-5-caffe")
    kinds = [type(layer).__name__ for layer in lenet.children()]
    # No ReLU behind the convolutions: the paper's Caffe net has none.
    assert kinds == ["Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    assert list(dict(lenet.named_parameters())) == [
        f"{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")
    ]
    for name in ("lenet-300-100", "alexnet-s", "vgg-c", "vgg-d", "vgg-like"):
        chain = _build(name)
        assert type(chain) is nn.Sequential
        assert not any(list(layer.children()) for layer in chain)


def test_lenet_5_with_batch_norm_has_the_same_layers_and_a_norm_and_relu_behind_each() -> None:
    plain, normalised = _build("lenet-5-caffe"), _build("lenet-5-bn")
    shapes = {name: tensor.shape for name, tensor in normalised.named_parameters() if "bn" not in name}
    assert shapes == {name: tensor.shape for name, tensor in plain.named_parameters()}
    behind = [(type(a).__name__, type(b).__name__, type(c).__name__) for a, b, c in zip(
        normalised, list(normalised)[1:], list(normalised)[2:], strict=False
    ) if isinstance(a, nn.Conv2d | nn.Linear)]  # fmt: skip
    assert behind == [
        ("Conv2d", "BatchNorm2d", "ReLU"),
        ("Conv2d", "BatchNorm2d", "ReLU"),
        ("Linear", "BatchNorm1d", "ReLU"),
    ]
    assert isinstance(list(normalised)[-1], nn.Linear)


def test_vgg_c_has_three_small_kernels_and_plain_poolings() -> None:
    chain = _build("vgg-c")
    kernels = [layer.kernel_size[0] for layer in chain if isinstance(layer, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]
    assert all(not layer.ceil_mode for layer in chain if isinstance(layer, nn.MaxPool2d))
    assert {layer.eps for layer in chain if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)} == {1e-3}


@pytest.mark.parametrize(("size", "kernel"), [(32, 11), (16, 5), (8, 3), (2, 3)])
def test_alexnets_padding_is_tensorflows_on_mirrored_images(size: int, kernel: int) -> None:
    x, w = torch.randn(2, 3, size, size).double(), torch.randn(4, 3, kernel, kernel).double()
    missing = (size // 2 - 1) * 2 + kernel - size  # what SAME padding with stride 2 adds in all
    before, after = missing // 2, missing - missing // 2
    same = F.conv2d(F.pad(x, [before, after, before, after]), w, stride=2)
    ours = F.conv2d(x.flip(2, 3), w.flip(2, 3), stride=2, padding=kernel // 2).flip(2, 3)
    assert torch.allclose(same, ours, atol=1e-12)


def test_a_wide_block_adds_its_input() -> None:
    same, wider = models.WideBlock(4, 4, 1), models.WideBlock(4, 6, 2)
    assert same.shortcut is None and wider.shortcut is not None
    for block in (same, wider):
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.shortcut(torch.relu(wider.bn1(x))))


@pytest.mark.parametrize(("depth", "said"), [(18, "got 18. Did you mean 16?"), (4, "got 4. Did you mean 10?")])
def test_a_wide_net_of_no_such_depth_is_refused(depth: int, said: str) -> None:
    with pytest.raises(SecateurError) as caught:
        _build(f"wrn-{depth}-2")
    assert str(caught.value) == f"`depth` of a WRN must be 6·n + 4 (10, 16, 22, 28 …), {said}"


def _lstm_by_hand(model: models.RowReader, x: torch.Tensor) -> torch.Tensor:
    cell, units = model.cell, model.cell.hidden_size
    h = c = torch.zeros(len(x), units)
    for row in x[:, 0].unbind(1):
        gates = model.project(row) @ cell.weight_ih_l0.T + h @ cell.weight_hh_l0.T + cell.bias_ih_l0
        i, f, g, o = gates.split(units, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)  # the forget gate's constant
        h = torch.sigmoid(o) * torch.tanh(c)
    return model.head(h)


def _gru_by_hand(model: models.RowReader, x: torch.Tensor) -> torch.Tensor:
    cell, units = model.cell, model.cell.hidden_size
    h = torch.zeros(len(x), units)
    for row in x[:, 0].unbind(1):
        r_in, z_in, n_in = (model.project(row) @ cell.weight_ih_l0.T + cell.bias_ih_l0).split(units, 1)
        r_h, z_h, n_h = (h @ cell.weight_hh_l0.T).split(units, 1)
        r, z = torch.sigmoid(r_in + r_h), torch.sigmoid(z_in + z_h)
        h = (1 - z) * torch.tanh(n_in + r * n_h) + z * h
    return model.head(h)


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [(partial(models.lstm, units=6), _lstm_by_hand), (partial(models.gru, units=6), _gru_by_hand)],
    ids=["lstm", "gru"],
)
def test_recurrent_nets_compute_one_bias_cells(make: partial, by_hand: object) -> None:
    model = make((1, 5, 4), 3)
    x = torch.randn(7, 1, 5, 4)
    assert torch.allclose(model(x), by_hand(model, x), atol=1e-6)  # type: ignore[operator]
    assert torch.equal(model(x), model(x[:, 0]))  # images and sequences of rows
    names = dict(model.named_parameters())
    assert "cell.bias_hh_l0" not in names and "cell.bias_ih_l0" in names


def test_recurrent_nets_survive_copies_moves_and_ordinary_checkpoints() -> None:
    model = _build("lstm-s")
    x = torch.randn(2, 1, 28, 28)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    assert torch.allclose(copy.deepcopy(model).double()(x.double()).float(), expected, atol=1e-5)
    fresh = models.lstm((1, 28, 28), 10, units=128)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)
    assert fresh.cell.state_dict().keys() == nn.LSTM(128, 128).state_dict().keys()


def test_initialising_leaves_the_forget_gates_constant() -> None:
    model = _build("lstm-s")
    assert isinstance(model, models.RowReader)
    constant = model.cell.bias_hh_l0
    assert constant.sum() == 128 and torch.equal(constant[128:256], torch.ones(128))
    assert not model.cell.bias_ih_l0.any()


def test_mlp_names_carry_their_widths() -> None:
    model = _build("mlp-784-4096-64-10", in_shape=(1, 28, 28))
    assert [p.shape[0] for name, p in model.named_parameters() if "weight" in name] == [4096, 64, 10]
    assert models.count(_build("mlp-5-3", num_classes=3)).weights == 15


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "mlp-784-300-10",
            {"in_shape": (1, 8, 8)},
            "`name` 'mlp-784-300-10' has 784 inputs and 10 classes, but the data have 64 and 10. "
            "Did you mean 'mlp-64-300-10'?",
        ),
        ("mlp-9-2", {}, "but the data have 9 and 10. Did you mean 'mlp-9-10'?"),
        ("lenet-300", {}, "got 'lenet-300'. Did you mean 'lenet-300-100'?"),
        ("mlp-0-5-10", {}, "lenet-5-FILTERS-FILTERS-HIDDEN or wrn-DEPTH-WIDTH; got 'mlp-0-5-10'."),
        (
            "lenet-5-caffe",
            {"in_shape": (1, 8, 8)},
            "`in_shape` of lenet-5-caffe must be at least 16 × 16 (two unpadded 5×5 convolutions, each halved by a "
            "pooling; the paper's is 28 × 28), got 8 × 8. Use lenet-300-100 for small images.",
        ),
        ("gru-s", {"in_shape": (64,)}, "`in_shape` must be (channels, rows, columns), each at least 1, got (64,)."),
        ("vgg-c", {"in_shape": (3, 0, 4)}, "each at least 1, got (3, 0, 4)."),
        ("wrn-16-0", {}, "`width` of a WRN must be 1 or more, got 0."),
        ("lenet-300-100", {"num_classes": 0}, "`num_classes` must be 1 or more, got 0."),
    ],
)
def test_what_cannot_be_built_says_why(name: str, options: dict[str, object], said: str) -> None:
    for asked in (_build, models.check):
        with pytest.raises(SecateurError) as caught:
            asked(name, **options)
        assert said in str(caught.value)


@pytest.mark.parametrize("name", [*COUNTS, "mlp-784-5-10", "wrn-10-1"])
def test_what_can_be_built_is_known_without_building_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state, where = torch.random.get_rng_state(), set()
    register = nn.Module.register_parameter

    def watched(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        where.add("" if parameter is None else parameter.device.type)
        register(self, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watched)
    models.check(name)
    assert where - {""} == {"meta"}  # shapes without memory, and nothing drawn into them
    assert torch.equal(torch.random.get_rng_state(), state)
