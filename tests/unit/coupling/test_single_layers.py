"""Stacks of recurrent layers taken apart: the same function, and another width in each layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from secateur import Masks, SecateurError, load, shrink
from secateur.coupling import SingleLayers, single_layers

KINDS = {
    "lstm": lambda: nn.LSTM(5, 8, num_layers=3, batch_first=True),
    "both ways": lambda: nn.LSTM(5, 8, num_layers=2, bidirectional=True),
    "projected": lambda: nn.LSTM(5, 8, num_layers=2, proj_size=3, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(5, 8, num_layers=2, bidirectional=True, batch_first=True, bias=False),
    "rnn": lambda: nn.RNN(5, 8, num_layers=2, nonlinearity="relu"),
}


def states(value: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["nothing", "states", "one sample"])
def test_it_computes_what_the_stack_does(kind: str, given: str) -> None:
    torch.manual_seed(0)
    stack = KINDS[kind]().double()
    apart = single_layers(stack)
    assert isinstance(apart, SingleLayers)
    x = torch.randn(7, 5, dtype=torch.float64) if given == "one sample" else torch.randn(4, 7, 5, dtype=torch.float64)
    out, end = stack(x)
    hx = None
    if given == "states":
        hx = tuple(map(torch.randn_like, end)) if isinstance(end, tuple) else torch.randn_like(end)
        out, end = stack(x, hx)
    mine, last = apart(x, hx)
    torch.testing.assert_close(mine, out)
    pairs = zip(last, end, strict=True) if isinstance(stack, nn.LSTM) else ((last, end),)
    for one, other in pairs:
        torch.testing.assert_close(torch.stack(states(one)), other)


def test_packed_sequences_run_one_way() -> None:
    torch.manual_seed(0)
    stack, x = KINDS["lstm"](), torch.randn(3, 6, 5)
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 1]), batch_first=True)
    out, (h, _) = stack(packed)
    mine, (last, _) = single_layers(stack)(packed)
    torch.testing.assert_close(mine.data, out.data)
    torch.testing.assert_close(torch.stack(last), h)
    with pytest.raises(SecateurError, match="Packed sequences run both ways in one layer"):
        single_layers(KINDS["gru"]())(packed)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(5, 8, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, (h, _) = self.lstm(x)
        return self.out(out) + self.out(torch.cat([h[-2], h[-1]], -1))[:, None]


def test_each_layer_and_direction_keeps_its_own_count(tmp_path: Path) -> None:
    """Units whose gates are masked go: three of one cell, one of the next, none, and four."""
    net, x = single_layers(Tagger()), torch.randn(2, 6, 5)
    gone, masks = (3, 1, 0, 4), {}
    for k, count in enumerate(gone):
        for name in ("weight_ih_l0", "weight_hh_l0"):
            mask = torch.ones(4, 8, net.lstm.cells[k].get_parameter(name).shape[1], dtype=torch.bool)
            mask[:, :count] = False
            masks[f"lstm.cells.{k}.{name}"] = mask.flatten(0, 1)
    shrunk = shrink(net, Masks(masks), x)
    assert [cell.hidden_size for cell in shrunk.model.lstm.cells] == [5, 7, 8, 4]
    assert [cell.input_size for cell in shrunk.model.lstm.cells] == [5, 5, 12, 12]
    assert shrunk.model.out.in_features == 12
    shrunk.save(tmp_path / "small")
    again = load(tmp_path / "small", single_layers(Tagger())).model
    assert again is not None
    with torch.no_grad():
        assert torch.equal(again.eval()(x), shrunk.model.eval()(x))


def test_what_is_none_is_refused() -> None:
    with pytest.raises(SecateurError, match="Linear has no stacked or bidirectional recurrent layer"):
        single_layers(nn.Linear(2, 2))
    with pytest.raises(SecateurError, match="`only`: 'out' is no stacked"):
        single_layers(Tagger(), only=["out"])
    whole = Tagger()
    assert isinstance(single_layers(whole, only=["lstm"]).lstm, SingleLayers)
    assert isinstance(whole.lstm, nn.LSTM)
