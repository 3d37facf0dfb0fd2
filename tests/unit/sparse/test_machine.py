"""What is measured of a machine, and where it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import Masks
from secateur.sparse import report_of, sparsify
from secateur.sparse.measured import _machine as module
from secateur.sparse.measured._machine import BreakEven, Machine, cache_file, this_machine


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, _own_cache: Path) -> list[str]:
    """Replace the measurement by a constant; collect the keys it was made for."""
    made: list[str] = []

    def measure(key: str) -> Machine:
        made.append(key)
        return Machine(key, True, (BreakEven(64, 128, 0.25),))

    monkeypatch.setattr(module, "measure_machine", measure)
    this_machine.cache_clear()
    yield made
    this_machine.cache_clear()


def test_measured_once_then_read_from_the_cache(quick: list[str], _own_cache: Path) -> None:
    first = this_machine()
    assert cache_file().parent == _own_cache
    assert list(json.loads(cache_file().read_text())) == quick == [first.key]
    for word in (torch.__version__, f"{torch.get_num_threads()} threads", module.processor()):
        assert word in first.key
    this_machine.cache_clear()
    assert this_machine() == first
    assert len(quick) == 1
    assert this_machine(7).key != first.key
    assert set(json.loads(cache_file().read_text())) == set(quick) and len(quick) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_cache_is_measured_anew(text: str, quick: list[str], _own_cache: Path) -> None:
    cache_file().write_text(text)
    assert this_machine().onednn
    assert json.loads(cache_file().read_text()).keys() == set(quick)


def test_a_damaged_entry_is_measured_anew(quick: list[str], _own_cache: Path) -> None:
    key = this_machine().key
    cache_file().write_text(json.dumps({key: {"onednn": 1}}))
    this_machine.cache_clear()
    assert this_machine().break_evens == (BreakEven(64, 128, 0.25),)


def test_a_cache_that_cannot_be_written_is_no_error(
    quick: list[str], _own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = _own_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("SECATEUR_CACHE", str(blocked / "below"))
    assert this_machine().break_evens


def test_sparsify_asks_this_machine(quick: list[str]) -> None:
    layer = nn.Linear(4, 4)
    fast = sparsify(layer, Masks({"weight": torch.eye(4) > 0}))
    assert str(report_of(fast)) == "weight [4 × 4]: dense kept: density 25 % is above break-even 25 %"


def test_break_even_goes_along_a_line_between_sizes() -> None:
    machine = Machine(
        "",
        False,
        (BreakEven(64, 1, 0.9), BreakEven(64, 128, 0.0), BreakEven(256, 128, 0.2), BreakEven(1024, 128, 0.4)),
    )
    assert machine.break_even(256, 256, 100) == pytest.approx(0.2)
    assert machine.break_even(64, 256, 100) == pytest.approx(0.1)
    assert machine.break_even(512, 512, 100) == pytest.approx(0.3)
    assert machine.break_even(10, 10, 100) == pytest.approx(0.0)
    assert machine.break_even(5000, 5000, 4000) == pytest.approx(0.4)
    assert machine.break_even(64, 64, 2) == pytest.approx(0.9)


@pytest.mark.slow
def test_measuring_for_real() -> None:
    state = torch.get_rng_state()
    found = module.measure_machine("here")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(0 <= b.density <= 1 for b in found.break_evens)
    assert {(b.size, b.batch) for b in found.break_evens} == {(s, b) for s in module._SIZES for b in module._BATCHES}
