"""Every method of the catalogue on every model of the conformance suite."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from torch import Tensor

from secateur import catalogue, method, schedule, scope, structure
from secateur.axes import Method
from secateur.testing import CHECKS, MODELS, check_docstring, check_exact_count, check_method, check_value

METHODS = catalogue()
PER_MODEL = [check for check in CHECKS if "model" in inspect.signature(check).parameters]
ALONE = [check for check in CHECKS if check not in PER_MODEL]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", PER_MODEL, ids=lambda check: check.__name__)
def test_method_on_model(check: Callable[..., None], name: str, model: str) -> None:
    check(METHODS[name].factory, density=0.3, model=model)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", ALONE, ids=lambda check: check.__name__)
def test_method_alone(check: Callable[..., None], name: str) -> None:
    check(METHODS[name].factory, density=0.3)


# --- the suite itself can fail: methods that are wrong in one way each -----------------------------------------------


def _plain(density: float, **choices: object) -> Method:
    parts = {"structure": structure.weights(), "scope": scope.everywhere(), "schedule": schedule.once(density)}
    return method("plain", lambda weight: weight.abs(), **{**parts, **choices})  # type: ignore[arg-type]


def test_suite_finds_a_wrong_count() -> None:
    with pytest.raises(AssertionError, match="weights kept, expected exactly"):
        check_exact_count(lambda density: _plain(density, scope=scope.threshold(0.0)), density=0.3, model="mlp")


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
