"""Student's t beside tables and closed forms, intervals and paired differences by hand, what a sheet says of claims."""

from __future__ import annotations

from math import atan, inf, pi, sqrt
from statistics import mean, stdev

import pytest

from secateur.lab.referee import Claim, Finding, Line, interval, judge, paired, row_of, student


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (30, 2.042), (120, 1.980)],
)
def test_the_quantiles_are_those_of_every_table(freedom: int, quantile: float) -> None:
    assert student(quantile, freedom) == pytest.approx(0.05, abs=6e-5)
    values = [0.0] * freedom + [1.0]
    half = interval(values).half
    assert half == pytest.approx(quantile * stdev(values) / sqrt(freedom + 1), rel=2e-4)


def test_one_and_two_degrees_of_freedom_have_closed_forms_of_their_own() -> None:
    for t in (0.0, 0.3, 1.0, 7.5):
        assert student(t, 1) == pytest.approx(1 - 2 / pi * atan(t))  # Cauchy
        assert student(t, 2) == pytest.approx(1 - t / sqrt(2 + t * t))
        assert student(-t, 2) == student(t, 2)
    assert student(inf, 3) == 0.0 and student(0.0, 7) == pytest.approx(1.0)


def test_a_single_value_has_no_interval() -> None:
    assert interval([2.5]).mean == 2.5 and interval([2.5]).half is None


def test_pairs_are_seeds_and_what_has_no_partner_does_not_count() -> None:
    ours, theirs = {0: 1.0, 1: 2.0, 2: 4.0, 9: 100.0}, {0: 1.5, 1: 2.5, 2: 4.1, 7: 0.0}
    found = paired(ours, theirs)
    assert found is not None and found.difference == pytest.approx(-1.1 / 3)
    differences = [-0.5, -0.5, -0.1]
    t = abs(mean(differences)) / (stdev(differences) / sqrt(3))
    assert found.p == pytest.approx(student(t, 2)) and not found.significant
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 1.0}, {0: 3.0})
    assert alone is not None and (alone.difference, alone.p, alone.significant) == (-2.0, None, False)
    same = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None and same.p == pytest.approx(1.0)
    always = paired({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})
    assert always is not None and always.p == 0.0 and always.significant


def lines(method: str, *errors: float, asked: float | None = 0.02, of: str = "") -> list[Line]:
    return [Line(method, of, asked, seed, error=error / 100) for seed, error in enumerate(errors)]


def test_a_claim_is_confirmed_contradicted_or_open() -> None:
    claim = Claim("one is better than two", "somebody", "one", "two")
    two = lines("two", 3.0, 3.2, 3.1)
    cases = {
        (2.0, 2.1, 2.2): Finding.CONFIRMED,
        (4.0, 4.3, 4.2): Finding.CONTRADICTED,
        (3.1, 3.1, 3.1): Finding.OPEN,
        (2.0,): Finding.UNMEASURED,
    }
    for errors, expected in cases.items():
        sheet = [*lines("one", *errors), *two]
        finding, _ = judge(claim, row_of(sheet, "one", 0.02), row_of(sheet, "two", 0.02))
        assert finding is expected, errors


def test_no_worse_allows_its_margin() -> None:
    claim = Claim("one is no worse than two", "somebody", "one", "two", margin=0.5)
    two = lines("two", 3.0, 3.2, 3.1)
    for above, expected in ((0.4, Finding.CONFIRMED), (0.9, Finding.CONTRADICTED)):
        sheet = [*lines("one", 3.0 + above, 3.21 + above, 3.1 + above), *two]
        finding, _ = judge(claim, row_of(sheet, "one", 0.02), row_of(sheet, "two", 0.02))
        assert finding is expected, above


def test_a_row_that_was_told_no_density_stands_beside_all() -> None:
    sheet = [*lines("told", 1.0), *lines("decides", 2.0, asked=None), *lines("random, same layers", 3.0, of="told")]
    assert row_of(sheet, "told", 0.05) == {} and set(row_of(sheet, "told", 0.02)) == {0}
    assert set(row_of(sheet, "decides", 0.02)) == {0}
    assert row_of(sheet, "random, same layers", 0.02) == {} != row_of(sheet, "random, same layers", 0.02, of="told")
