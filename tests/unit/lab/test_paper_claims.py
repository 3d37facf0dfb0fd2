"""What the top of the SNIP page says, from records by hand: the relative claim, selection, and parameter counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_cases import record
from secateur.lab.paper import Paper, Record, load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def snip() -> Paper:
    return load("snip_2019", ROOT)


SLIPS = {("wrn-16-8", "10.0m"), ("vgg-like", "14.9m"), ("lstm-b", "536k")}  # which the page tells of


def _known(snip: Paper) -> dict[str, dict[str, Record]]:
    """Every LeNet-300-100 of Figure 1 at 2 %, sparse ones a tenth of a point per tenth above it, three seeds each."""
    found: dict[str, dict[str, Record]] = {name: {} for name in snip.artefacts}
    for cell in snip.find("figure1").cells:
        if cell.column == "SNIP" and cell.experiment.model == "lenet-300-100":
            error = 2.0 + round(1 - cell.experiment.density, 6)
            found["figure1"][cell.name] = record(error, error, error, experiment=cell.experiment)
    for cell in snip.find("table1").cells:
        if cell.row == "LeNet-300-100, 95 %" and cell.column == "same weights, literal":
            found["table1"][cell.name] = record(2.0, 2.5, experiment=cell.experiment)
    return found


def test_the_page_begins_with_whether_sparse_is_no_worse_than_dense(snip: Paper) -> None:
    assert snip.summary is not None
    said = snip.summary(_known(snip))
    # Δ is 0.1 at 10 % and 0.2 at 20 %, without spread; 0.1 points are allowed.
    assert (
        "* LeNet-300-100, literal, 100,000 of 100,000 steps: no worse up to 10 % (Δ +0.10 ± 0.00), "
        "worse at 20 % (Δ +0.20 ± 0.00).\n" in said
    )
    assert "* LeNet-5-Caffe with ReLU, literal: not judged.\n" in said
    # Mean of 2.0 and 2.5, mean of the best epochs (0.25 lower here), the lowest of these.
    assert "| LeNet-300-100, 95 %, same weights | 1.60 | 2.25 | 2.00 | 1.75 | 2 |" in said


def test_the_parameters_on_the_page_are_those_of_the_paper(snip: Paper) -> None:
    from papers.snip_2019 import claims  # pyright: ignore[reportMissingImports]

    rows = [[part.strip() for part in line.strip("|").split("|")] for line in claims.sizes().splitlines()[2:]]
    assert len(rows) == 14
    units = {"k": 1e3, "m": 1e6}
    for name, whole, total, normed, kept, kappa, kappa_normed in rows:
        for said, ours in ((whole, (total, normed)), (kept, (kappa, kappa_normed))):
            if said == "–" or (name.split(",")[0], said) in SLIPS:
                continue
            digits = len(said.partition(".")[2]) - 1 if "." in said else 0
            close = {f"{int(value.replace(',', '')) / units[said[-1]]:.{digits}f}{said[-1]}" for value in ours}
            assert said in close, (name, said, close)
