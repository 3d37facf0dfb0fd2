"""A report: what it counts is counted by hand, and the model is left alone."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, hold, report, sparsify
from secateur._base.errors import MaskError, SecateurError
from secateur.reporting import Report, _report
from secateur.sparse import BreakEven, Machine

NEVER = Machine("never", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.0),))


@pytest.fixture(autouse=True)
def untimed_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sparsify go by a table: timing layer by layer takes seconds and is tested elsewhere."""
    monkeypatch.setattr(_report, "sparsify", lambda model, masks, **_: sparsify(model, masks, machine=NEVER))


def told(model: nn.Module, masks: dict[str, Tensor], inputs: Any) -> Report:
    return report(model, Masks(masks), inputs, seconds=0.02)


def some(*shape: int, seed: int = 0, density: float = 0.4) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density


def test_linear_layers_by_hand() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    first = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]) > 0
    second = torch.tensor([[1, 1, 0], [0, 0, 0]]) > 0
    found = told(net, {"0.weight": first, "2.weight": second}, torch.zeros(5, 4, dtype=torch.float64))
    one, two = found.layers
    assert (one.shape, one.kept, one.numel, one.density) == ((3, 4), 4, 12, 4 / 12)
    assert (one.macs, one.effective_macs, two.macs, two.effective_macs) == (60, 20, 30, 10)
    assert (one.bytes, one.bytes_kept, two.bytes, two.bytes_kept) == (96, 32, 48, 16)
    assert (one.dead, two.dead) == (1, 1)
    # Unit 1 is reached by nothing, unit 2 leads nowhere: only in → unit 0 → output 0 is a path.
    assert (one.effective, two.effective) == (2, 1)
    assert found.effective_sparsity == 1 - 3 / 18
    assert (found.macs, found.effective_macs, found.params, found.kept) == (90, 30, 12 + 3 + 6 + 2, 6)


def test_effective_weights_are_those_on_a_path_of_a_chain() -> None:
    sizes = [7, 9, 8, 6, 5]
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    masks = {f"{k}.weight": some(b, a, seed=k, density=0.2) for k, (a, b) in enumerate(pairwise(sizes))}
    found = told(net, masks, torch.zeros(1, 7))
    for k, layer in enumerate(found.layers):
        count = 0
        for row, column in masks[f"{k}.weight"].nonzero().tolist():
            one = masks[f"{k}.weight"].clone().fill_(False)
            one[row, column] = True
            through = torch.eye(7, dtype=torch.long)
            for depth in range(4):
                through = (one if depth == k else masks[f"{depth}.weight"]).long() @ through
            count += bool(through.any())
        assert layer.effective == count
    assert any(layer.effective != layer.kept for layer in found.layers)


def test_a_network_without_a_path_has_no_effective_weight() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    found = told(net, {"0.weight": torch.zeros(3, 3) > 0, "2.weight": torch.ones(3, 3) > 0}, torch.zeros(1, 3))
    assert [layer.effective for layer in found.layers] == [0, 0]
    assert found.effective_sparsity == 1.0 and found.layers[0].dead == 3
    assert found.layers[0].histogram is None


def test_grouped_and_transposed_convolutions_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.ReLU(), nn.ConvTranspose2d(6, 2, 2, bias=False))
    first, second = torch.ones(6, 2, 3, 3) > 0, torch.ones(6, 2, 2, 2) > 0
    first[1] = False
    second[:, 1] = False  # an output channel of a transposed convolution is its second dimension
    found = told(net, {"0.weight": first, "2.weight": second}, torch.zeros(1, 4, 5, 5))
    one, two = found.layers
    assert one.macs == 6 * 3 * 3 * 2 * 9 and one.effective_macs == 5 * 3 * 3 * 2 * 9
    assert (one.dead, two.dead) == (1, 1)
    assert one.effective == 5 * 2 * 9 and two.effective == 5 * 4


def test_an_lstm_by_hand() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    inside, across = torch.ones(8, 3) > 0, torch.ones(8, 2) > 0
    inside[:2], across[0] = False, False
    found = told(Last(), {"rnn.weight_ih_l0": inside, "rnn.weight_hh_l0": across}, torch.zeros(4, 5, 3))
    one, two = found.layers
    assert (one.macs, two.macs) == (4 * 5 * 8 * 3, 4 * 5 * 8 * 2)
    assert (one.effective_macs, two.effective_macs) == (4 * 5 * 6 * 3, 4 * 5 * 7 * 2)
    assert (one.dead, two.dead) == (2, 1)


def test_a_tied_weight_is_told_once_and_multiplied_twice() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    net[2].weight = net[0].weight
    mask = torch.eye(4) > 0
    found = told(net, {"0.weight": mask, "2.weight": mask}, torch.zeros(2, 4))
    (layer,) = found.layers
    assert (layer.kept, layer.bytes, layer.macs, layer.effective_macs) == (4, 64, 2 * 2 * 16, 2 * 2 * 4)
    assert (found.params, found.effective_macs) == (16, 16)


def test_attention_claims_no_multiplications_for_its_parts() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x, x, x)[0]

    found = told(Mixed(), {"mix.in_proj_weight": some(12, 4)}, torch.zeros(1, 3, 4))
    assert found.layers[0].macs is None
    assert found.macs == found.effective_macs > 0


def test_without_masks_the_zeros_are_read() -> None:
    net = nn.Sequential(nn.Linear(6, 5))
    masks = Masks({"0.weight": some(5, 6)})
    masks.apply_(net)
    found = report(net, None, torch.zeros(1, 6), seconds=0.02)
    assert found.masks == masks and found.kept == masks.kept


def test_histograms_count_the_weights_that_stay() -> None:
    net: Any = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -3.0], [5.0, 1.0]]))
    (layer,) = told(net, {"0.weight": torch.tensor([[True, True], [False, True]])}, torch.zeros(1, 2)).layers
    assert layer.histogram is not None
    assert (layer.histogram.low, layer.histogram.high) == (-3.0, 1.0)
    assert sum(layer.histogram.counts) == 3 and layer.histogram.counts[0] == 1 and layer.histogram.counts[-1] == 2


def test_every_way_is_measured_or_says_why_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    half = torch.ones(16, 8) > 0
    half[8:] = False
    found = told(net, {"0.weight": half, "2.weight": torch.ones(4, 16) > 0}, torch.zeros(2, 8))
    assert [way.name for way in found.ways] == ["dense", "held", "sparse", "shrunk"]
    assert found.ways[3].bytes == 4 * (8 * 8 + 8 + 4 * 8 + 4)
    assert all(way.latency is not None and way.latency.runs >= 8 for way in found.ways)

    for way in found.ways[1:3]:  # held, and sparse where each layer stayed dense: what differs in time is noise
        assert way.said.startswith("no gain here, because ")

    scattered = some(16, 8, density=0.9) | (torch.arange(8) == 0)
    ways = told(net, {"0.weight": scattered}, torch.zeros(2, 8)).ways
    assert (
        ways[3].latency is None
        and ways[3].said == "no gain here, because the masks leave no whole unit that could be cut"
    )


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4))
    net[1].eval()
    masks = Masks({"0.weight": some(16, 8)})
    before, modes = copy.deepcopy(net.state_dict()), [each.training for each in net.modules()]
    state = torch.get_rng_state()
    report(net, masks, torch.zeros(2, 8), seconds=0.02)

    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [each.training for each in net.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())
    assert all(p.grad is None and not p._backward_hooks and p.requires_grad for p in net.parameters())


def test_a_held_model_stays_held() -> None:
    net: Any = nn.Sequential(nn.Linear(8, 4))
    masks = Masks({"0.weight": some(4, 8)})
    ours = hold(net, masks)
    assert report(net, masks, torch.zeros(2, 8), seconds=0.02).kept == masks.kept
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight != 0, masks["0.weight"])
    ours.release()


def test_refusals() -> None:
    net = nn.Sequential(nn.Linear(8, 4))
    with pytest.raises(SecateurError, match="its forward raised"):
        told(net, {"0.weight": some(4, 8)}, torch.zeros(2, 9))
    with pytest.raises(MaskError, match=r"no parameter '1\.weight'"):
        told(net, {"1.weight": some(4, 8)}, torch.zeros(2, 8))
    with pytest.raises(SecateurError, match="sparsified"):
        always = Machine("always", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.9),))
        told(
            sparsify(net, Masks({"0.weight": some(4, 8)}), machine=always), {"0.weight": some(4, 8)}, torch.zeros(2, 8)
        )
    with pytest.raises(SecateurError, match="`seconds`"):
        report(net, None, torch.zeros(2, 8), seconds=0)


def test_the_table_has_a_row_of_each_layer_and_of_each_way(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    lines = str(told(net, {"0.weight": some(4, 8), "1.weight": some(2, 4)}, torch.zeros(2, 8))).splitlines()
    assert lines[0].startswith("Sequential: ") and lines[2].split()[0] == "layer"
    assert [line.split()[0] for line in lines[3:6]] == ["0.weight", "1.weight", "total"]
    assert [line.split()[0] for line in lines[8:]] == ["dense", "held", "sparse", "shrunk"]
