"""Cells of a paper and how long they are run for: verdict boundaries, order of work, patterns, refusals."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paper_cases import BASE, DENSE, RECIPE, TINY, cell, clone, record
from secateur._base.errors import SecateurError
from secateur.lab.experiment import Ramp, Stairs, shortened
from secateur.lab.paper import Artefact, Cell, Length, Verdict, change, folders, lines, load, only, order, verdict


@pytest.fixture(autouse=True)
def _path_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("errors", "paper", "points", "expected"),
    [
        ((1.6,) * 3, 1.6, 0.3, Verdict.REACHED),
        ((1.604,) * 3, 1.6, 0.3, Verdict.REACHED),  # 1.60 is printed
        ((1.606,) * 3, 1.6, 0.3, Verdict.AGREES),
        ((0.2,) * 3, 1.6, 0.3, Verdict.REACHED),
        ((1.9,) * 3, 1.6, 0.3, Verdict.AGREES),
        ((2.7,) * 3, 2.4, 0.3, Verdict.AGREES),  # 2.4 + 0.3 is 2.6999999999999997 in floating point
        ((1.91,) * 3, 1.6, 0.3, Verdict.MISSED),
        ((1.61,) * 3, 1.6, 0.0, Verdict.MISSED),
        # mean 2.5, standard deviation 0.5 (n − 1), standard error 0.289: up to paper + points + 0.577 is allowed
        ((2.0, 2.5, 3.0), 1.63, 0.3, Verdict.AGREES),
        ((2.0, 2.5, 3.0), 1.61, 0.3, Verdict.MISSED),
        ((2.0, 2.5, 3.0), None, 0.3, Verdict.NOTHING),
        # two seeds are not judged, whatever they are
        ((1.6, 1.6), 1.6, 0.3, Verdict.UNJUDGED),
        ((9.9,), 1.6, 0.3, Verdict.UNJUDGED),
        ((), 1.6, 0.3, Verdict.FAILED),
        ((), None, 0.3, Verdict.FAILED),
    ],
)
def test_verdicts(errors: tuple[float, ...], paper: float | None, points: float, expected: Verdict) -> None:
    assert verdict(cell(paper=paper, points=points), record(*errors)) is expected


@pytest.mark.parametrize(("error", "expected"), [(18.0, Verdict.AGREES), (74.0, Verdict.AGREES), (2.0, Verdict.MISSED)])
def test_where_the_paper_shows_a_failure_failing_agrees(error: float, expected: Verdict) -> None:
    assert verdict(cell(paper=47.6, fails_from=18.0), record(error, error, error)) is expected


def test_a_deviation_of_the_paper_s_counts_with_ours() -> None:
    # Standard errors 0.1/√4 = 0.05 of the paper's and 0 of ours: up to 1.6 + 0.1 + 0.1 is allowed.
    printed = cell(paper=1.6, paper_std=0.1, paper_seeds=4)
    assert verdict(printed, record(1.8, 1.8, 1.8)) is Verdict.AGREES
    assert verdict(printed, record(1.81, 1.81, 1.81)) is Verdict.MISSED
    # Of both: √(0.05² + (0.3/√3)²) = 0.1803.
    ours = record(1.7, 2.0, 2.3)  # mean 2.0, deviation 0.3
    assert verdict(replace(printed, paper=1.54), ours) is Verdict.AGREES
    assert verdict(replace(printed, paper=1.53), ours) is Verdict.MISSED


def test_shorter_runs_than_the_paper_s_are_not_judged() -> None:
    brief = replace(BASE, recipe=shortened(BASE.recipe, 5))
    assert verdict(cell(paper=1.6), record(1.6, 1.6, 1.6, experiment=brief)) is Verdict.UNJUDGED


def test_what_was_measured_on_other_data_is_not_measured() -> None:
    assert verdict(cell(paper=1.6, comparable=False), record(1.6, 1.6, 1.6)) is Verdict.UNMEASURED


def test_what_pruning_costs_is_a_difference_of_means_with_the_error_of_both() -> None:
    cells = [cell(dense="net · dense"), cell("net", "dense", DENSE)]
    sparse, dense = record(1.0, 2.0, 3.0), record(1.0, 1.5, 2.0, 1.5, experiment=DENSE)
    found = change(cells[0], {"net · snip": sparse, "net · dense": dense})
    # Deviations 1 and √(0.5/3) = 0.408; errors 1/√3 and 0.408/2.
    assert found is not None and found.judged and found.seeds == 3
    assert found.points == pytest.approx(0.5) and found.error == pytest.approx((1 / 3 + 0.5 / 3 / 4) ** 0.5)
    assert found.no_worse(0.1) and not replace(found, error=0.19).no_worse(0.1)
    assert replace(found, error=None).no_worse(0.5) and not replace(found, error=None).no_worse(0.49)
    assert change(cells[1], {"net · dense": dense}) is None  # it has no twin
    assert change(cells[0], {"net · snip": sparse}) is None
    brief = replace(DENSE, recipe=shortened(DENSE.recipe, 5))
    assert change(cells[0], {"net · snip": sparse, "net · dense": replace(dense, experiment=brief)}) is None
    alone = change(cells[0], {"net · snip": sparse, "net · dense": record(1.5, experiment=DENSE)})
    assert alone is not None and alone.error is None and not alone.judged


def test_what_was_not_run_is_not_measured() -> None:
    assert verdict(cell(paper=1.0), None) is Verdict.UNMEASURED
    assert str(Verdict.UNMEASURED) == "not measured"


def test_statistics_of_a_record_by_hand() -> None:
    found = record(1.0, 2.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx((((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2) ** 0.5)
    assert found.best_mean == pytest.approx(7 / 3 - 0.25)
    assert record(1.0).std is None
    none = record()
    assert (none.mean, none.std, none.best_mean) == (None, None, None)


def test_seeds_count_up_from_the_experiment_s_own() -> None:
    assert [one.seed for one in Length(3).of(cell(experiment=replace(BASE, seed=5)))] == [5, 6, 7]
    assert Length(1).of(cell()) == (BASE,)


def test_steps_squeeze_the_schedule_along() -> None:
    (short,) = Length(1, steps=10).of(cell())
    assert (short.recipe.steps, short.recipe.rate) == (10, Ramp(0.1, 10, warmup=1))
    (long,) = Length(1, steps=40).of(cell())
    assert (long.recipe.steps, long.recipe.rate) == (40, Ramp(0.1, 40, warmup=4))
    stairs = replace(BASE, recipe=replace(RECIPE, rate=Stairs(0.1, every=5)))
    assert Length(1, steps=8).of(cell(experiment=stairs))[0].recipe.rate == Stairs(0.1, every=2)


def test_quick_takes_the_cell_s_own_steps_and_examples() -> None:
    (quick,) = Length(1, quick=True).of(cell(quick=4, quick_examples=30))
    assert (quick.recipe.steps, quick.examples) == (4, 30)
    (own,) = Length(1, quick=True).of(cell(quick=4, experiment=replace(BASE, examples=70)))
    assert (own.recipe.steps, own.examples) == (4, 70)


def test_quick_never_takes_longer_than_the_paper() -> None:
    assert Length(1, quick=True).of(cell(quick=540)) == (BASE,)  # 20 steps in full


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, r"`seeds` must be at least 1, got 0\."),
        ({"seeds": 1, "steps": 0}, r"`steps` must be at least 1, got 0\."),
        ({"seeds": 1, "steps": 9, "quick": True}, r"`quick` chooses the steps itself: leave out `steps`, got 9\."),
    ],
)
def test_a_length_that_is_none_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        Length(**arguments)


def test_work_is_ordered_seed_by_seed_and_each_run_once() -> None:
    cells = [
        cell("a"),
        cell("a", "dense", DENSE),
        cell("the same run again"),
        cell("b", "snip", replace(BASE, density=0.1)),
    ]
    found = order(cells, Length(2))
    assert [(one.method, one.density, one.seed) for one in found] == [
        ("snip", 0.05, 0),
        ("dense", 1.0, 0),
        ("snip", 0.1, 0),
        ("snip", 0.05, 1),
        ("dense", 1.0, 1),
        ("snip", 0.1, 1),
    ]
    assert order([], Length(3)) == []


def test_the_label_of_a_recipe_makes_no_second_run() -> None:
    renamed = replace(BASE, recipe=replace(RECIPE, name="other words"))
    assert len(order([cell("a"), cell("b", experiment=renamed)], Length(1))) == 1


CELLS = [
    cell(f"LeNet-{size}, {sparsity} %", way) for size in (5, 300) for sparsity in (90, 95) for way in ("SNIP", "dense")
]


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ([], 8),
        (["lenet-5"], 4),  # upper and lower case are one
        (["LeNet-300, 9? % · dense"], 2),
        (["300*snip"], 2),
        (["5, 95 % · snip", "300, 90 % · dense"], 2),
        (["lenet-[35]"], 8),
        (["· dense"], 4),
        (["· snip$"], 4),
    ],
)
def test_only_matches_row_and_column(patterns: list[str], count: int) -> None:
    found = only(CELLS, patterns)
    assert len(found) == count
    assert found == [one for one in CELLS if one in found]  # the table's order


def test_the_end_of_a_name_may_be_asked_for() -> None:
    with pytest.raises(SecateurError, match=r"matches no cell, got '90 %\$'"):
        only(CELLS, ["90 %$"])


def test_only_without_a_match_lists_what_there_is() -> None:
    with pytest.raises(SecateurError) as caught:
        only(CELLS[:2], ["vgg", "wrn"])
    assert str(caught.value) == (
        "`only` matches no cell, got 'vgg', 'wrn'. Cells are: LeNet-5, 90 % · SNIP; LeNet-5, 90 % · dense."
    )
    with pytest.raises(SecateurError, match=r"LeNet-300, 90 % · dense; …$"):
        only(CELLS, ["vgg"])
    with pytest.raises(SecateurError, match=r"got 'vgg'\. There are no cells to choose from\.$"):
        only([], ["vgg"])


def test_two_cells_of_one_name_are_refused() -> None:
    with pytest.raises(
        SecateurError, match=r"table9 has two cells named 'a · snip': each row and column must meet once"
    ):
        Artefact("table9", "Table 9", "", (cell("a"), cell("b"), cell("a", experiment=DENSE)), lines)


def test_papers_are_found_at_or_above_a_folder(tmp_path: Path) -> None:
    package = clone(tmp_path, "found_above")
    below = tmp_path / "deep" / "down"
    below.mkdir(parents=True)
    assert folders(below) == folders(tmp_path) == {"found_above": package}


def test_papers_beside_the_source_are_found_from_anywhere(tmp_path: Path) -> None:
    assert "snip_2019" in folders(tmp_path)


def test_a_wrong_name_says_the_nearest(tmp_path: Path) -> None:
    clone(tmp_path, "tiny_nearest")
    with pytest.raises(SecateurError, match=r"`paper` must be one of tiny_nearest, got 'tiny_neerest'\. Did you mean"):
        load("tiny_neerest", tmp_path)
    paper = load("tiny_nearest", tmp_path)
    assert (paper.title, list(paper.artefacts)) == ("Tiny, 1999", ["table", "figure", "wild"])
    assert paper.expected(paper.find("table")) == tmp_path / "papers" / "tiny_nearest" / "table.expected.json"
    with pytest.raises(
        SecateurError, match=r"`artefact` of tiny_nearest must be one of table, .*, got 'tabel'\. Did you mean 'table'"
    ):
        paper.find("tabel")


def test_a_paper_that_lacks_something_is_refused(tmp_path: Path) -> None:
    clone(tmp_path, "tiny_untitled", TINY.replace("TITLE =", "HEADLINE ="))
    with pytest.raises(SecateurError, match=r"tiny_untitled.__init__\.py has no TITLE, and a paper needs it\."):
        load("tiny_untitled", tmp_path)
    clone(tmp_path, "tiny_twice", TINY.replace('Artefact("figure"', 'Artefact("table"'))
    with pytest.raises(SecateurError, match=r"ARTEFACTS of tiny_twice has two of one name: table, table, wild\."):
        load("tiny_twice", tmp_path)


def test_another_paper_of_that_name_is_not_taken_for_it(tmp_path: Path) -> None:
    first, second = (clone(tmp_path / place, "tiny_namesake") for place in ("one", "two"))
    assert load("tiny_namesake", tmp_path / "one").folder == first
    with pytest.raises(SecateurError, match=r"`paper` tiny_namesake is in .*two.*, but another is in its way in .*one"):
        load("tiny_namesake", tmp_path / "two")
    assert second.exists()


def test_cells_are_values() -> None:
    assert Cell("a", "b", BASE) == Cell("a", "b", BASE) and Cell("a", "b", BASE).name == "a · b"
    assert Cell("a", "b", BASE).points == 0.1
