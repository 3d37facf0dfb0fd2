"""What is measured of a machine, and where it is kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import Masks
from secateur._base.errors import MeasurementsWarning, SecateurError
from secateur.sparse import BreakEven, Choice, Machine, report_of, sparsify, this_machine
from secateur.sparse.measured import _machine as module
from secateur.sparse.measured._calibrate import calibrate_recurrent, line_crossing
from secateur.sparse.timing import processor


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


def entries(folder: Path) -> dict[str, object]:
    return json.loads((folder / "machine.json").read_text())


def test_measured_once_then_read_from_the_cache(quick: list[str], _own_cache: Path) -> None:
    first = this_machine()
    assert list(entries(_own_cache)) == quick == [first.key]
    for word in (torch.__version__, f"{torch.get_num_threads()} threads", processor()):
        assert word in first.key
    this_machine.cache_clear()
    assert this_machine() == first
    assert len(quick) == 1
    assert this_machine(7).key != first.key
    assert set(entries(_own_cache)) == set(quick) and len(quick) == 2


def test_what_earlier_versions_wrote_is_read(quick: list[str], _own_cache: Path) -> None:
    key = this_machine().key
    this_machine.cache_clear()
    known = {
        "onednn": False,
        "break_evens": [{"size": 64, "batch": 1, "density": 0.5}, {"size": 256, "batch": 128, "density": 0.25}],
        "convolution": 0.125,
    }
    (_own_cache / "machine.json").write_text(json.dumps({key: known, "another machine": {"whatever": 1}}))
    expected = Machine(key, False, (BreakEven(64, 1, 0.5), BreakEven(256, 128, 0.25)), 0.125)
    assert this_machine() == expected and quick == [key]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", "\xff", "[" * 100_000, '{"a":' * 100_000])
def test_a_damaged_cache_is_told_and_measured_anew(text: str, quick: list[str], _own_cache: Path) -> None:
    (_own_cache / "machine.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(MeasurementsWarning, match=r"machine\.json is not what was measured here"):
        assert this_machine().onednn
    assert entries(_own_cache).keys() == set(quick)
    this_machine.cache_clear()
    assert this_machine().onednn and len(quick) == 1  # without a word


TABLE = {"onednn": False, "break_evens": [{"size": 64, "batch": 128, "density": 0.3}], "convolution": 0.3}


def with_one(**fields: object) -> dict[str, object]:
    return TABLE | {"break_evens": [{"size": 64, "batch": 128, "density": 0.3} | fields]}


@pytest.mark.parametrize(
    "entry",
    [
        {"onednn": 1},
        [],
        None,
        "text",
        5,
        TABLE | {"break_evens": []},
        TABLE | {"break_evens": None},
        TABLE | {"break_evens": "no"},
        TABLE | {"break_evens": [5]},
        TABLE | {"onednn": 1},
        TABLE | {"convolution": "x"},
        TABLE | {"convolution": float("nan")},
        TABLE | {"convolution": -0.1},
        {name: value for name, value in TABLE.items() if name != "convolution"},
        with_one(density=float("nan")),
        with_one(density=float("inf")),
        with_one(density=1.5),
        with_one(density=True),
        with_one(size="x"),
        with_one(size=0),
        with_one(size=-4),
        with_one(size=64.5),
        with_one(size=10**400),
        with_one(batch=0),
        with_one(batch=[128]),
        with_one(colour=1),
    ],
)
def test_a_damaged_entry_is_told_and_measured_anew(entry: object, quick: list[str], _own_cache: Path) -> None:
    key = this_machine().key
    (_own_cache / "machine.json").write_text(json.dumps({key: entry, "another machine": 1}))
    this_machine.cache_clear()
    with pytest.warns(MeasurementsWarning, match=r"machine\.json is not what was measured here"):
        assert this_machine().break_evens == (BreakEven(64, 128, 0.25),)
    this_machine.cache_clear()
    assert this_machine().break_evens == (BreakEven(64, 128, 0.25),)
    assert quick == [key, key] and entries(_own_cache)["another machine"] == 1


def test_a_good_entry_is_believed(quick: list[str], _own_cache: Path) -> None:
    key = this_machine().key
    (_own_cache / "machine.json").write_text(json.dumps({key: with_one(density=1), "another machine": [float("nan")]}))
    this_machine.cache_clear()
    assert this_machine().break_evens == (BreakEven(64, 128, 1),) and quick == [key]


def test_a_cache_without_end_is_not_read(quick: list[str], _own_cache: Path) -> None:
    with open(_own_cache / "machine.json", "wb") as file:
        file.truncate(1 << 34)  # takes no room
    with pytest.warns(MeasurementsWarning, match="it has more than 16,777,216 bytes"):
        assert this_machine().onednn


def test_a_cache_that_cannot_be_written_is_no_error(
    quick: list[str], _own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = _own_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("SECATEUR_CACHE", str(blocked / "below"))
    assert this_machine().break_evens


def test_sparsify_asks_this_machine_where_no_shape_is_known(quick: list[str]) -> None:
    layer = nn.Conv2d(4, 4, 1)
    fast = sparsify(layer, Masks({"weight": torch.ones(4, 4, 1, 1) > 0, "bias": torch.ones(4) > 0}))
    assert not quick and report_of(fast).layers[0].choice is Choice.UNTOUCHED  # nothing to gain, nothing measured
    fast = sparsify(layer, Masks({"weight": torch.eye(4)[:, :, None, None] > 0}))
    said = "weight [4 × 4 × 1 × 1]: sparse: density 25 % is below break-even 35 % of convolutions"
    assert quick and str(report_of(fast).layers[0]) == said


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


@pytest.mark.parametrize(("first", "second", "dense"), [(1.0, 2.0, 2.5), (1.0, 1.5, 1.25), (2.0, 3.0, 2.0)])
def test_at_the_break_even_both_take_the_same_time(first: float, second: float, dense: float) -> None:
    density = line_crossing(first, second, dense)
    assert first + (second - first) * (density - 0.02) / (0.2 - 0.02) == pytest.approx(dense)


def test_a_machine_without_break_evens_is_refused_by_name() -> None:
    masks = Masks({"weight": torch.eye(8) > 0})
    nothing = Machine("by hand", False, ())
    with pytest.raises(
        SecateurError, match=r"`machine` has no `break_evens`.*BreakEven\(size=1024.*leave `machine` out"
    ):
        sparsify(nn.Linear(8, 8), masks, machine=nothing)
    with pytest.raises(SecateurError, match="`machine` has no `break_evens`"):
        sparsify(nn.GRU(8, 8), Masks({"weight_hh_l0": torch.eye(8).repeat(3, 1) > 0}), machine=nothing)
    kept = torch.zeros(8, 2, 3, 3, dtype=torch.bool)
    kept[0] = True
    fast = sparsify(nn.Conv2d(2, 8, 3), Masks({"weight": kept}), machine=nothing)
    assert report_of(fast).layers[0].choice is Choice.SPARSE, "convolutions go by `convolution`"


def test_a_break_even_is_a_density_whatever_was_measured() -> None:
    assert line_crossing(1.0, 2.0, 0.1) == 0.0  # dense is faster whatever is kept
    assert line_crossing(1.0, 2.0, 99.0) == line_crossing(1.0, 1.0, 1.5) == line_crossing(2.0, 1.0, 3.0) == 1.0


def is_a_table(found: Sequence[BreakEven]) -> bool:
    """Whether every size was measured with every batch, once."""
    sizes, batches = {b.size for b in found}, {b.batch for b in found}
    return sorted((b.size, b.batch) for b in found) == sorted(itertools.product(sizes, batches)) and len(sizes) > 1


@pytest.mark.slow
def test_measuring_for_real() -> None:
    state = torch.get_rng_state()
    found = module.measure_machine("here")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(0 <= b.density <= 1 for b in found.break_evens) and 0 <= found.convolution <= 1
    assert is_a_table(found.break_evens)
    assert all(found.break_even(b.size, b.size, b.batch) == pytest.approx(b.density) for b in found.break_evens)


@pytest.mark.slow
def test_measuring_recurrent_layers_for_real() -> None:
    found = module.measure_recurrent(gru=False)
    assert all(0 <= b.density <= 1 for b in found) and is_a_table(found)


@pytest.mark.parametrize("gru", [False, True])
def test_a_measurement_leaves_the_random_state(gru: bool) -> None:
    state = torch.get_rng_state()
    assert 0 <= calibrate_recurrent(8, 2, gru, torch.Generator().manual_seed(0)) <= 1
    assert torch.equal(torch.get_rng_state(), state)
