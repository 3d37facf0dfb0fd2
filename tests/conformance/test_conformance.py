"""Every method of the catalogue on every model of the conformance suite."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from torch import Tensor

from secateur import catalogue, method, schedule, scope, structure
from secateur.axes import Method
from secateur.testing import (
    MODELS,
    check_docstring,
    check_exact_count,
    check_method,
    check_program,
    check_trains,
    check_value,
    check_zeros,
    checks_of,
    models_of,
)

METHODS = {name: entry for name, entry in catalogue().items() if "program" not in entry.tags}
PROGRAMS = {name: entry for name, entry in catalogue().items() if "program" in entry.tags}
ROWS = [(check, name) for name, entry in METHODS.items() for check in checks_of(entry.factory)]
PER_MODEL = [row for row in ROWS if "model" in inspect.signature(row[0]).parameters]
ALONE = [row for row in ROWS if row not in PER_MODEL]


def _id(value: object) -> str:
    return getattr(value, "__name__", str(value))


ON_MODELS = [(*row, model) for row in PER_MODEL for model in models_of(METHODS[row[1]].factory)]


@pytest.mark.parametrize(("check", "name", "model"), ON_MODELS, ids=_id)
def test_method_on_model(check: Callable[..., None], name: str, model: str) -> None:
    check(METHODS[name].factory, density=0.3, model=model)


@pytest.mark.parametrize(("check", "name"), ALONE, ids=_id)
def test_method_alone(check: Callable[..., None], name: str) -> None:
    check(METHODS[name].factory, density=0.3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_on_model(name: str, model: str) -> None:
    check_program(PROGRAMS[name].factory, density=0.3, model=model)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_explains_itself(name: str) -> None:
    check_docstring(PROGRAMS[name].factory, density=0.3)


# --- the suite itself can fail: methods that are wrong in one way each -----------------------------------------------


def _plain(density: float, **choices: object) -> Method:
    parts = {"structure": structure.weights(), "scope": scope.everywhere(), "schedule": schedule.once(density)}
    return method("plain", lambda weight: weight.abs(), **{**parts, **choices})  # type: ignore[arg-type]


def test_suite_finds_a_wrong_count() -> None:
    with pytest.raises(AssertionError, match="weights kept, expected exactly"):
        check_exact_count(
            lambda density: _plain(density, schedule=schedule.once(density / 2)), density=0.3, model="mlp"
        )


def test_suite_counts_after_all_rounds_and_takes_fewer_for_the_rest() -> None:
    asked: list[int] = []

    def patient(density: float, *, rounds: int = 20) -> Method:
        asked.append(rounds)
        return _plain(density, schedule=schedule.once(density if rounds == 6 else density / 2))

    with pytest.raises(AssertionError, match="weights kept, expected exactly"):
        check_exact_count(patient, density=0.3, model="mlp")
    check_zeros(patient, density=0.3, model="mlp")
    check_trains(patient, density=0.3, model="mlp")
    assert asked[0] == 20 and set(asked[1:]) == {6}


def test_suite_finds_a_missing_source() -> None:
    with pytest.raises(AssertionError, match="Family"):
        check_docstring(_plain, density=0.3)


def test_suite_finds_a_method_that_is_no_value() -> None:
    with pytest.raises(AssertionError, match="not equal"):
        check_value(_plain, density=0.3)  # its score is a new lambda in every call


def score(weight: Tensor) -> Tensor:
    weight.add_(1)  # a score must not write into the weights
    return weight.abs()


def vandal(density: float) -> Method:
    """Damage the weights while scoring.

    Family: at initialisation.
    Source: arXiv 0000.00000.
    Deviates: from good manners.
    """
    return method(
        "vandal",
        score,
        structure=structure.weights(),
        scope=scope.everywhere(),
        schedule=schedule.once(density),
    )


def test_suite_finds_a_score_that_changes_the_weights() -> None:
    with pytest.raises(AssertionError, match="surviving weight"):
        check_method(vandal)
