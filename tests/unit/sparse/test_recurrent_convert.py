"""sparsify and densify on recurrent networks: same function, fewer parameters, ordinary torch otherwise."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, hold
from secateur._base.errors import MeasurementsWarning
from secateur.lab.models import RowReader, gru, lstm
from secateur.sparse import BreakEven, Choice, Machine, SparseGRU, SparseLSTM, densify, report_of, sparsify
from secateur.sparse.measured import _machine as measured
from secateur.sparse.measured import recurrent_break_even
from secateur.sparse.timing import processor

Build = Callable[[], nn.Module]


class Tagger(nn.Module):
    """Two bidirectional layers, a score at every step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cell = kind(5, 8, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0]).mean(1)


def read_lstm() -> nn.Module:
    return lstm((1, 4, 5), 3, units=9)


def read_gru() -> nn.Module:
    return gru((1, 4, 5), 3, units=9)


def tag_lstm() -> nn.Module:
    return Tagger(nn.LSTM)


def tag_gru() -> nn.Module:
    return Tagger(nn.GRU)


BUILDS = (read_lstm, read_gru, tag_lstm, tag_gru)


def masks_of(model: nn.Module, density: float = 0.3, *, biases: bool = False) -> Masks:
    generator = torch.Generator().manual_seed(3)
    named = {n: p for n, p in model.named_parameters() if "weight" in n or biases}
    return Masks({n: (torch.rand(p.shape, generator=generator) < density) & ("weight" in n) for n, p in named.items()})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        x = torch.randn(12, 4, 5, generator=generator)
        y = torch.randint(0, 3, (12,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("build", BUILDS)
def test_forth_and_back_bit_for_bit(build: Build, sparse_machine: Machine) -> None:
    model = build()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    assert any(isinstance(m, SparseLSTM | SparseGRU) for m in fast.modules())
    x = torch.randn(7, 4, 5)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    back = densify(fast)
    assert list(back.state_dict()) == list(model.state_dict())
    assert {n: p.requires_grad for n, p in back.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert torch.equal(fast.state_dict()[name], tensor)
    torch.testing.assert_close(back(x), model(x), rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(copy.deepcopy(fast)))
    assert torch.equal(again(x), fast(x))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
        lambda p: torch.optim.RAdam(p, lr=1e-2),
        lambda p: torch.optim.Adagrad(p, lr=1e-2),
    ],
)
def test_trains_as_the_held_dense_model(
    build: Build, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], sparse_machine: Machine
) -> None:
    model = build()
    masks = masks_of(model)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    train(fast, make(fast.parameters()))
    held = hold(model, masks)
    train(model, make(model.parameters()))
    held.check()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_parameters_are_what_survived(sparse_machine: Machine) -> None:
    model = read_lstm()
    masks = masks_of(model, 0.1)
    fast = sparsify(model, masks, machine=sparse_machine)
    names = {n: tuple(p.shape) for n, p in fast.named_parameters() if n.startswith("cell")}
    kept = {n.removeprefix("cell."): int(masks[n].count_nonzero()) for n in masks if n.startswith("cell")}
    assert names == {
        "cell.values_ih_l0": (kept["weight_ih_l0"],),
        "cell.values_hh_l0": (kept["weight_hh_l0"],),
        "cell.bias_ih_l0": (36,),
    }
    assert [n for n, _ in fast.named_buffers()] == ["cell.bias_hh_l0"]
    assert isinstance(fast, RowReader)
    assert isinstance(fast.cell, SparseLSTM) and not fast.cell.gru


def test_the_report_says_why(sparse_machine: Machine) -> None:
    model = read_gru()
    fast = sparsify(model, masks_of(model, 0.25), machine=sparse_machine)
    lines = {line.name: line for line in report_of(fast).layers}
    line = lines["cell.weight_hh_l0"]
    assert (line.choice, line.held, line.shape) == (Choice.SPARSE, True, (27, 9))
    assert line.reason.startswith("density 2") and line.reason.endswith("% of the layer is below break-even 60 %")
    dense = sparsify(model, masks_of(model, 0.9), machine=sparse_machine)
    assert report_of(dense).layers[1].choice is Choice.DENSE
    x = torch.randn(7, 4, 5)
    masked = copy.deepcopy(model)
    masks_of(model, 0.9).apply_(masked)
    torch.testing.assert_close(dense(x), masked(x), rtol=1e-5, atol=1e-6)


def test_biases_pruned_whole_become_constants(sparse_machine: Machine) -> None:
    model = tag_lstm()
    masks = masks_of(model, 0.3, biases=True)
    fast = sparsify(model, masks, machine=sparse_machine)
    assert not [n for n, _ in fast.named_parameters() if n.startswith("cell.bias")]
    lines = {line.name: line for line in report_of(fast).layers}
    assert lines["cell.bias_ih_l0"].reason == "pruned whole: a constant zero" and lines["cell.bias_ih_l0"].held
    back = densify(fast)
    assert dict(back.named_parameters())["cell.bias_ih_l0"].requires_grad
    assert not back.state_dict()["cell.bias_ih_l0"].any()
    fast.load_state_dict(back.state_dict())
    loud = back.state_dict() | {"cell.bias_ih_l0": torch.ones(32)}
    with pytest.raises(RuntimeError, match="is not zero, but this layer's mask prunes it whole"):
        fast.load_state_dict(loud)


def test_dense_checkpoints_go_in_and_wrong_ones_do_not(sparse_machine: Machine) -> None:
    model = tag_gru()
    masks = masks_of(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    other = tag_gru()
    with pytest.raises(RuntimeError, match=r"non-zero weights where the mask of this layer has none.*masks\.apply_"):
        fast.load_state_dict(other.state_dict())
    masks.apply_(other)
    fast.load_state_dict(other.state_dict())
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(fast(x), other(x), rtol=1e-5, atol=1e-6)
    state = other.state_dict()
    short = {n: t for n, t in state.items() if n != "cell.weight_hh_l1"}
    with pytest.raises(RuntimeError, match=r"Missing key.*cell\.weight_hh_l1"):
        fast.load_state_dict(short)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*cell\.more"):
        fast.load_state_dict(state | {"cell.more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for cell\.weight_ih_l0"):
        fast.load_state_dict(state | {"cell.weight_ih_l0": torch.zeros(2, 2)})


class Sub(nn.LSTM):
    """Not a plain LSTM."""


def _partly() -> tuple[nn.Module, Masks]:
    model = nn.Sequential(nn.LSTM(3, 4))
    return model, Masks({"0.weight_ih_l0": torch.eye(16, 3) > 0, "0.bias_ih_l0": torch.arange(16) > 3})


def _simple(layer: nn.Module) -> tuple[nn.Module, Masks]:
    weight = layer.get_parameter("weight_ih_l0")
    return nn.Sequential(layer), Masks({"0.weight_ih_l0": torch.zeros_like(weight, dtype=torch.bool)})


def _shared() -> tuple[nn.Module, Masks]:
    model, masks = _simple(nn.GRU(3, 4))
    other = nn.GRU(3, 4)
    other.weight_ih_l0 = model[0].weight_ih_l0  # type: ignore[index]
    return nn.ModuleList([*model, other]), masks


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (lambda: _simple(nn.LSTM(3, 4, proj_size=2)), "proj_size=2: the kernels have no projection of the state"),
        (lambda: _simple(Sub(3, 4)), "it is a Sub, not a plain nn.LSTM or nn.GRU"),
        (lambda: _simple(nn.GRU(3, 4).double()), "its weights are float64 on cpu; the kernels take float32 on cpu"),
        (_partly, "bias_ih_l0 is partly masked; a bias must be kept or pruned whole"),
        (_shared, "its parameters are shared with another layer"),
    ],
)
def test_what_cannot_be_swapped_stays_and_says_why(
    case: Callable[[], tuple[nn.Module, Masks]], reason: str, sparse_machine: Machine
) -> None:
    model, masks = case()
    new = sparsify(model, masks, machine=sparse_machine)
    line = next(line for line in report_of(new).layers if line.name == "0.weight_ih_l0")
    assert (line.choice, line.reason, line.held) == (Choice.UNTOUCHED, reason, False)
    assert not any(isinstance(m, SparseLSTM | SparseGRU) for m in new.modules())


def test_the_break_even_is_measured_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, sparse_machine: Machine, _own_cache: Path
) -> None:
    made: list[bool] = []

    def measure(gru: bool) -> tuple[BreakEven, ...]:
        made.append(gru)
        return (BreakEven(64, 128, 0.4 if gru else 0.2),)

    monkeypatch.setattr(measured, "measure_recurrent", measure)
    here, file = replace(sparse_machine, key=f"{processor()} · a test"), _own_cache / "recurrent.json"

    def look_up(gru: bool) -> float:
        measured.recurrent_machine.cache_clear()  # as a new process does
        return recurrent_break_even(here, 100, 100, gru=gru)

    assert [look_up(gru) for gru in (False, True, False, True)] == [0.2, 0.4, 0.2, 0.4]
    assert made == [False, True]
    known = {name: [{"size": 64, "batch": 128, "density": 0.7}] for name in json.loads(file.read_text())}
    file.write_text(json.dumps(known))  # as earlier versions wrote it
    assert [look_up(gru) for gru in (False, True)] == [0.7, 0.7] and made == [False, True]
    for damaged in ("{", json.dumps({name: [] for name in known})):
        file.write_text(damaged)
        with pytest.warns(MeasurementsWarning, match=r"recurrent\.json is not what was measured here"):
            assert look_up(True) == 0.4
    assert made == [False, True, True, True]
    measured.recurrent_machine.cache_clear()
