"""papers/han_2015 and papers/deep_compression: every cell can be run, and the arithmetic is that of brute force."""

from __future__ import annotations

import doctest
import importlib
import itertools
import math
from pathlib import Path

import pytest
import torch

from secateur.lab.experiment import Experiment
from secateur.lab.paper import Length, Paper, check_first, load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def han() -> Paper:
    return load("han_2015", ROOT)


@pytest.fixture(scope="module")
def deep() -> Paper:
    return load("deep_compression", ROOT)


def test_every_cell_can_be_run(han: Paper, deep: Paper) -> None:
    for paper in (han, deep):
        for artefact in paper.artefacts.values():
            check_first(artefact.cells, Length(1, quick=True))
            assert artefact.title and artefact.about.strip()


def test_the_printed_numbers(han: Paper, deep: Paper) -> None:
    printed = {cell.name: cell.paper for cell in (*han.find("table1").cells, *deep.find("table1").cells)}
    assert printed == {
        "LeNet-300-100 · trained": 1.64,
        "LeNet-300-100 · pruned, 12×": 1.59,
        "LeNet-5 · trained": 0.80,
        "LeNet-5 · pruned, 12×": 0.77,
        "LeNet-300-100 · pruned": 1.58,
        "LeNet-300-100 · pruned, 6 bits": 1.58,
        "LeNet-5 · pruned": 0.74,
        "LeNet-5 · pruned, 5 bits": 0.74,
    }


def test_one_run_serves_all_papers_that_show_it(han: Paper, deep: Paper) -> None:
    snip = load("snip_2019", ROOT)
    row = {cell.experiment for cell in snip.find("table1").cells if cell.row.startswith("LWC")}
    ours = {cell.experiment for cell in han.find("table1").cells if cell.column.startswith("pruned")}
    first = {cell.experiment for cell in deep.find("table1").cells if cell.column == "pruned"}
    assert row == ours == first and len(row) == 2
    shared = [cell.experiment.pretrain for cell in deep.find("table1").cells if cell.column.endswith("bits")]
    assert {one for one in shared if isinstance(one, Experiment)} == row
    for cell in han.find("table1").cells:
        if cell.most_kept is not None:
            weights = 266_200 if "300" in cell.row else 430_500
            assert int(weights * cell.experiment.density + 0.5) <= cell.most_kept < weights / 11.75


def test_the_examples_of_the_papers_run() -> None:
    for name in ("papers.han_2015.setting", "papers.deep_compression.sizes"):
        found = doctest.testmod(importlib.import_module(name))
        assert found.attempted and not found.failed


def test_the_printed_totals_lie_within_the_rounding_of_the_printed_percentages() -> None:
    setting = importlib.import_module("papers.han_2015.setting")
    for layers, total, kept in ((setting.ALEXNET, 61e6, 6.7e6), (setting.VGG_16, 138e6, 10.3e6)):
        weights, low, high = setting.counted(layers)
        assert weights == pytest.approx(total, rel=0.005) and low < kept < high


@pytest.mark.parametrize("bits", [1, 2, 5])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_gaps_say_where_every_survivor_is(bits: int, density: float) -> None:
    sizes = importlib.import_module("papers.deep_compression.sizes")
    mask = torch.rand(400, generator=torch.Generator().manual_seed(bits)) < density
    kept = mask.nonzero().flatten().tolist()
    found, places, place = sizes.gaps(kept, bits), [], -1
    assert all(1 <= gap <= 2**bits for gap in found)
    for gap in found:
        place += gap
        places.append(place)
    assert set(places) >= set(kept) and places == sorted(set(places))
    fillers = set(places) - set(kept)
    assert len(fillers) == sum(math.ceil((b - a) / 2**bits) - 1 for a, b in itertools.pairwise([-1, *kept]))


def _shortest(counts: tuple[int, ...]) -> int:
    """The best prefix code by trying all lengths that Kraft's inequality allows."""
    best = None
    for lengths in itertools.product(range(1, len(counts) + 1), repeat=len(counts)):
        if sum(2.0**-length for length in lengths) <= 1:
            bits = sum(count * length for count, length in zip(counts, lengths, strict=True))
            best = bits if best is None else min(best, bits)
    assert best is not None
    return best


@pytest.mark.parametrize("counts", [(1,), (5, 1), (5, 1, 1), (8, 4, 2, 1), (3, 3, 3, 3, 1), (10, 1, 1, 1, 1)])
def test_huffman_is_the_shortest_prefix_code(counts: tuple[int, ...]) -> None:
    sizes = importlib.import_module("papers.deep_compression.sizes")
    assert sizes.huffman(counts) == _shortest(counts)


def test_the_bytes_of_each_stage_are_those_of_the_formula() -> None:
    sizes = importlib.import_module("papers.deep_compression.sizes")
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(1, 9, (50, 40), generator=generator) * (torch.rand(50, 40, generator=generator) < 0.05)
    weight = codes.float() / 4
    found = sizes.size_of([weight], 10, code_bits=3, gap_bits=4)
    stored = len(sizes.gaps(weight.flatten().nonzero().flatten().tolist(), 4))
    kept = int((weight != 0).sum())
    assert found.dense == 4 * (2000 + 10) and found.pruned == 40 + stored * 36 / 8
    assert found.quantised == 40 + stored * 7 / 8 + 4 * 8
    counts = [int((codes == k).sum()) for k in range(1, 9)] + [stored - kept]
    entropy = sum(-n * math.log2(n / stored) for n in counts if n)
    assert found.coded < found.quantised + 40
    assert 8 * (found.coded - 40) - 32 * 8 > entropy  # codes alone take as much, and gaps come on top
