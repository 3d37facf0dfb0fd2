"""Masks of weights, closed to whole units; units that are dead for every input; constants that move into biases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coupling_nets import residual
from secateur import Masks, SecateurError, coupling, methods, prune, shrink
from secateur.shrinking import closed


def rows_cut(model: nn.Module, name: str, rows: list[int]) -> Masks:
    mask = torch.ones(model.get_parameter(name).shape, dtype=torch.bool)
    mask[rows] = False
    return Masks({name: mask})


def test_a_filter_without_weights_takes_its_shift_and_what_reads_it_along() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.ones_(net[1].bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(2, 2, 5, 5)
    masks = rows_cut(net, "0.weight", [1, 3])

    whole = closed(masks, coupling.trace(net, x), net)

    keep = torch.tensor([True, False, True, False])
    assert set(whole) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight"}
    assert all(torch.equal(whole[name], keep) for name in ("0.bias", "1.weight", "1.bias"))
    assert torch.equal(whole["3.weight"][:, :, 0, 0], keep.expand(2, 4))

    small, certificate, manifest = shrink(net, masks, x)
    assert small[0].out_channels == small[1].num_features == small[3].in_channels == 2
    assert manifest.kept["1.bias"] == {0: (0, 2)}
    # The shift of 1 went through ReLU and the second layer's columns: that is what closing changed.
    assert certificate.closing is not None and certificate.closing.units == 2 and certificate.closing.change > 0.01
    assert certificate.closing.entries == 2 + 2 + 2 + 4  # bias, scale, shift, columns


def test_without_closing_the_constant_moves_into_the_next_bias() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    net[1].running_mean.copy_(torch.rand(4))  # pyright: ignore[reportCallIssue]
    nn.init.ones_(net[1].bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(2, 2, 5, 5)
    masks = rows_cut(net, "0.weight", [1, 3])
    masks.apply_(net)
    want, bias = net(x), net[3].bias.clone()  # pyright: ignore[reportCallIssue]

    small, certificate, _ = shrink(net, masks, x, close=False)

    assert certificate.folded == 2 and small[0].out_channels == 2
    torch.testing.assert_close(small(x), want)
    # By hand: relu(β + γ (b - μ) / sqrt(σ² + ε)), times the columns.
    norm = net[1]
    emitted = torch.relu(
        norm.bias + norm.weight * (net[0].bias - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    )
    added = (net[3].weight[:, [1, 3], 0, 0] * emitted[[1, 3]]).sum(1)
    torch.testing.assert_close(small[3].bias, bias + added)
    assert certificate.not_claimed == ("2 constants of eval mode stand in biases: train mode",)


def test_a_constant_in_front_of_a_padded_border_stays() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    nn.init.ones_(net[0].bias)  # pyright: ignore[reportArgumentType]
    masks = rows_cut(net, "0.weight", [1])

    small, certificate, _ = shrink(net, masks, torch.randn(2, 2, 6, 6), close=False)

    assert certificate.folded == 0 and small[0].out_channels == 4


def test_what_nobody_reads_goes_with_all_that_feeds_it() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, [0, 4]] = False  # two units of the second layer are read by nobody
    inner = torch.ones(6, 5, dtype=torch.bool)
    inner[[1, 2, 3, 5], 2] = False  # and with them the only reader of a unit of the first
    small, certificate, manifest = shrink(net, Masks({"4.weight": mask, "2.weight": inner}), torch.randn(4, 3))

    assert (small[0].out_features, small[2].out_features) == (4, 4)
    assert manifest.kept["0.weight"] == {0: (0, 1, 3, 4)}
    assert certificate.closing is not None and certificate.closing.change == 0.0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_unit_that_nothing_writes_goes(kind: type[nn.RNNBase]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0])

    net = Net()
    with torch.no_grad():
        for parameter in net.layer.parameters():
            for block in parameter.split(6):
                block[[1, 4]] = 0
    small, certificate, _ = shrink(net, Masks.from_zeros(net), torch.randn(2, 4, 3), close=False)

    assert small.layer.hidden_size == 4 and certificate.folded == 0


def test_scattered_zeros_stay_zero_and_come_back_as_masks() -> None:
    net, x = residual()
    masks = prune(net, methods.magnitude(density=0.5))
    first = masks["0.weight"].clone()
    first[[2, 5]] = False
    masks = Masks({**masks, "0.weight": first})

    found = shrink(net, masks, x)

    assert found.masks is not None
    found.masks.check(found.model)
    assert all(not found.model.get_parameter(name)[~mask].any() for name, mask in found.masks.items())


def test_density_one_changes_nothing() -> None:
    net, x = residual()
    small, certificate, _ = shrink(net, 1.0, x, draws=0)

    assert certificate.before == certificate.after
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Masks({"nowhere": torch.ones(3, dtype=torch.bool)}), "no parameter 'nowhere'"),
        (95, "Did you mean density=0.05"),
    ],
)
def test_what_cannot_be_meant_is_refused(what: object, said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        shrink(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), what, torch.zeros(1, 3))  # pyright: ignore
