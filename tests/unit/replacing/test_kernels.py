"""KSE: what a channel is worth by definition, how many kernels that is, and layers that store them with an index."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import SecateurError, UnfitModelError, method, methods, prune, schedule, scope, scores, structure
from secateur.methods import kernel_sparsity_entropy
from secateur.replacing import ClusteredConv, cluster_kernels, clustered_like, kernel_counts


def _net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, dilation=2, bias=False), nn.ReLU(),
            nn.Conv2d(16, 7, 1), nn.Flatten(), nn.Linear(63, 4),
        ).double().eval()  # fmt: skip


def _by_definition(weight: Tensor, nearest: int = 5, alpha: float = 1.0) -> list[float]:
    """v of each input channel, written out with loops."""

    def scaled(values: Sequence[float]) -> list[float]:
        return [(value - min(values)) / (max(values) - min(values)) for value in values]

    outputs, inputs = weight.shape[:2]
    kernels = [[weight[n, c].flatten().tolist() for n in range(outputs)] for c in range(inputs)]
    s = [sum(abs(value) for kernel in channel for value in kernel) for channel in kernels]
    e = []
    for channel in kernels:
        others = [[math.dist(a, b) for j, b in enumerate(channel) if j != i] for i, a in enumerate(channel)]
        dm = [sum(sorted(apart)[:nearest]) for apart in others]
        e.append(-sum(d / sum(dm) * math.log2(d / sum(dm)) for d in dm))
    return scaled([math.sqrt(a / (1 + alpha * b)) for a, b in zip(scaled(s), scaled(e), strict=True)])


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (9, 9, 3, 3), (4, 6, 5), (3, 4)])
def test_the_indicator_is_the_papers_of_input_channels(shape: tuple[int, ...]) -> None:
    drawn = torch.Generator().manual_seed(sum(shape))
    layer: nn.Module = nn.Linear(shape[1], shape[0], bias=False)
    if len(shape) > 2:
        kind = nn.Conv2d if len(shape) == 4 else nn.Conv1d
        layer = kind(shape[1], shape[0], shape[2], bias=False)
    weight = torch.randn(shape, generator=drawn, dtype=torch.float64)
    layer.weight = nn.Parameter(weight)
    found = scores(nn.Sequential(layer), kernel_sparsity_entropy(0.5, alpha=0.7))["0.weight"]
    assert found.tolist() == pytest.approx(_by_definition(weight, alpha=0.7), abs=1e-9)


def test_equal_kernels_have_no_entropy_and_layers_of_equal_channels_are_all_worth_one() -> None:
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight[:, 1] = weight[0, 1]
    weight[:, 2] = weight[:, 0]
    layer = nn.Conv2d(3, 6, 3, bias=False)
    layer.weight = nn.Parameter(weight)
    found = scores(nn.Sequential(layer), kernel_sparsity_entropy(0.5))["0.weight"]
    assert bool(torch.isfinite(found).all()) and float(found[0]) == float(found[2])
    layer.weight = nn.Parameter(torch.ones_like(weight))
    assert scores(nn.Sequential(layer), kernel_sparsity_entropy(0.5))["0.weight"].tolist() == [1, 1, 1]


def test_a_layer_of_one_output_has_no_neighbours() -> None:
    found = scores(nn.Sequential(nn.Conv2d(4, 1, 3)), kernel_sparsity_entropy(0.5))["0.weight"]
    assert bool(torch.isfinite(found).all()) and float(found.max()) == 1


def test_as_a_method_whole_input_channels_go() -> None:
    masks = prune(_net(), methods.kernel_sparsity_entropy(0.5))
    columns = masks["3.weight"].transpose(0, 1).flatten(1)
    assert columns.all(1).tolist() == columns.any(1).tolist() and int(columns.any(1).sum()) == 8


@pytest.mark.parametrize("groups", [2, 4, 5])
@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("outputs", [1, 6, 64, 100])
def test_counts_rise_with_worth_from_none_to_all(groups: int, shift: int, outputs: int) -> None:
    worth = torch.linspace(0, 1, 101, dtype=torch.float64)
    counts = kernel_counts(worth, outputs, groups=groups, shift=shift).tolist()
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == outputs
    for v, count in zip(worth.tolist(), counts, strict=True):
        if math.floor(v * groups) == 0:
            expected = 0
        elif math.ceil(v * groups) == groups:
            expected = outputs
        else:
            expected = math.ceil(outputs / 2 ** (groups - math.ceil(v * groups) + shift))
        assert count == expected


def test_each_kernel_is_stored_as_the_nearest_centre_and_centres_are_means() -> None:
    net = _net()
    found = cluster_kernels(net, groups=4, generator=torch.Generator().manual_seed(1))
    layer = found.model.get_submodule("3")
    assert isinstance(layer, ClusteredConv)
    weight, dense = net.get_parameter("3.weight").detach(), layer.dense().detach()
    assert any(1 < count < 16 for count in layer.counts.tolist())
    for channel, count in enumerate(layer.counts.tolist()):
        kernels, stored = weight[:, channel].flatten(1), dense[:, channel].flatten(1)
        if count == 0:
            assert not bool(stored.any())
            continue
        centres = stored.unique(dim=0)
        assert len(centres) <= count
        apart = torch.cdist(kernels, centres)
        assert torch.allclose((kernels - stored).norm(dim=1), apart.min(1).values)
        for centre in centres:
            assert torch.allclose(centre, kernels[(stored == centre).all(1)].mean(0))


def test_with_all_kernels_kept_nothing_changes_and_otherwise_it_computes_the_dense_weight() -> None:
    net, x = _net(2), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        for path in ("0", "3", "5"):
            weight = net.get_parameter(f"{path}.weight")
            weight.copy_(weight[:, :1].expand_as(weight).clone())  # all channels alike: all are worth 1
    same = cluster_kernels(net)
    assert torch.equal(same.model(x), net(x)) and all(each.after == each.before for each in same.layers.values())
    net = _net(3)
    found = cluster_kernels(net, groups=3, shift=1)
    by_hand = _net(3)
    with torch.no_grad():
        for path in found.layers:
            by_hand.get_parameter(f"{path}.weight").copy_(found.model.get_submodule(path).dense())  # type: ignore[operator]
    assert torch.allclose(found.model(x), by_hand(x), atol=1e-12)
    assert not torch.allclose(found.model(x), net(x))


def test_what_is_told_is_what_is_stored() -> None:
    found = cluster_kernels(_net(), groups=4, shift=1)
    for path, each in found.layers.items():
        layer = found.model.get_submodule(path)
        assert isinstance(layer, ClusteredConv)
        counts, outputs = layer.counts.tolist(), len(layer.index)
        assert each.after == len(layer.centres) == sum(counts) and each.unread == counts.count(0)
        index = sum(outputs * math.ceil(math.log2(count)) for count in counts if 1 < count < outputs)
        assert each.bits == layer.centres.numel() * 64 + index
        assert each.bits_before == each.before * layer.centres[0].numel() * 64
    assert found.compression == pytest.approx(
        sum(each.bits_before for each in found.layers.values()) / sum(each.bits for each in found.layers.values())
    )
    assert "kernels before" in str(found)


def test_centres_train_and_a_fresh_model_takes_the_state() -> None:
    net, x = _net(4), torch.randn(6, 3, 9, 9, dtype=torch.float64)
    found = cluster_kernels(net, groups=4)
    layer = found.model.get_submodule("3")
    assert isinstance(layer, ClusteredConv)
    index, few = layer.index.clone(), next(place for place, count in enumerate(layer.counts.tolist()) if 1 < count < 16)
    distinct = len(layer.dense()[:, few].flatten(1).unique(dim=0))
    before = layer.centres.detach().clone()
    optimizer = torch.optim.Adam(found.model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(found.model(x), torch.arange(6) % 4).backward()
        optimizer.step()
    assert not torch.equal(layer.centres, before) and torch.equal(layer.index, index)
    assert len(layer.dense()[:, few].flatten(1).unique(dim=0)) == distinct  # kernels that shared a centre still do
    again = clustered_like(_net(9), found.model.state_dict())
    assert torch.equal(again(x), found.model(x))
    assert torch.equal(_net(4)(x), net(x)), "the model that was given must stay as it is"


def test_any_score_of_inputs_says_what_channels_are_worth() -> None:
    by_size = method(
        "by size",
        lambda weight: weight.abs(),
        structure=structure.columns(),
        scope=scope.layerwise(),
        schedule=schedule.once(0.5),
    )
    found = cluster_kernels(_net(), method=by_size, groups=4)
    size = _net().get_parameter("3.weight").detach().abs().sum((0, 2, 3))
    worth = (size - size.min()) / (size.max() - size.min())
    layer = found.model.get_submodule("3")
    assert isinstance(layer, ClusteredConv)
    assert layer.counts.tolist() == kernel_counts(worth, 16, groups=4, shift=0).tolist()
    with pytest.raises(SecateurError, match="must score input channels"):
        cluster_kernels(_net(), method=methods.l1_filters(0.5))


def test_bad_input_is_refused() -> None:
    with pytest.raises(SecateurError, match="`groups` must be at least 2"):
        cluster_kernels(_net(), groups=1)
    with pytest.raises(SecateurError, match="`shift`"):
        cluster_kernels(_net(), shift=-1)
    with pytest.raises(UnfitModelError, match="ungrouped convolutions"):
        cluster_kernels(nn.Sequential(nn.Linear(3, 3), nn.Conv2d(4, 4, 3, groups=4)))
    with pytest.raises(SecateurError, match=r"`state` has clustered kernels of '3'"):
        clustered_like(nn.Sequential(nn.Linear(3, 3)), {"3.counts": torch.ones(3), "3.centres": torch.ones(3)})
    with pytest.raises(SecateurError, match="`alpha`"):
        methods.kernel_sparsity_entropy(0.5, alpha=-1.0)
    broken = _net()
    with torch.no_grad():
        broken[3].weight[0, 0] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(SecateurError, match=r"3\.weight"):
        cluster_kernels(broken)
