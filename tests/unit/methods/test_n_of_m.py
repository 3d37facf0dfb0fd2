"""N:M by magnitude: exact in every group, of convolutions along the channels; and the companion that reorders them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import SecateurError, catalogue, prune
from secateur.arranging import arrange_
from secateur.methods import n_of_m


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)
    )


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2)])
def test_each_group_keeps_its_largest(n: int, m: int) -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks = prune(model, n_of_m(n, m))
    assert bool(masks["0.weight"].all())  # three channels: no group of m
    for name in ("2.weight", "4.weight"):
        rows = before[name].abs().movedim(1, -1).reshape(-1, m)
        bits = masks[name].movedim(1, -1).reshape(-1, m)
        assert bool((bits.sum(1) == n).all())
        for row, kept in zip(rows.tolist(), bits.tolist(), strict=True):
            assert sorted(row)[-n:] == sorted(value for value, bit in zip(row, kept, strict=True) if bit)


def test_what_fits_no_layer_is_refused() -> None:
    model = nn.Linear(6, 4)
    with pytest.raises(SecateurError, match="4 divides the number of inputs of none of weight"):
        prune(model, n_of_m())
    assert bool((model.weight != 0).all())
    with pytest.raises(SecateurError, match="0 < n <= m"):
        n_of_m(5, 4)


def test_reordered_channels_keep_more_magnitude_and_the_function() -> None:
    kept, outputs = [], []
    example = torch.randn(2, 3, 8, 8)
    for arranged in (False, True):
        model = network()
        if arranged:
            arrange_(model, example)
        outputs.append(model(example).detach())
        prune(model, n_of_m())
        kept.append(sum(float(model[place].weight.detach().abs().sum()) for place in (2, 4)))  # type: ignore[union-attr]
    torch.testing.assert_close(outputs[0], outputs[1])
    assert kept[1] > kept[0]


def test_the_catalogue_says_what_it_is() -> None:
    entry = catalogue()["n_of_m"]
    assert entry.arxiv == "2104.08378" and entry.tags == {"emerging", "trained"} and entry.needs == "nothing"
