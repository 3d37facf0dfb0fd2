"""A conformance suite that any pruning method must pass, yours included: `check_method(my_method)`.

Like scikit-learn's `check_estimator`. Each check is a plain function that raises AssertionError with a sentence; run
them all at once, or parametrise your own tests over `CHECKS` and `MODELS`. Which checks a method gets follows from what
it is: `prune` for all that work without training, a `Pruner` with stop and resume for all that can act during it, and
`check_program` for functions that own a loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from secateur.testing._alone import check_docstring, check_value
from secateur.testing._cases import MODELS, Case, Factory, case, made, models_of
from secateur.testing._offline import (
    check_deterministic,
    check_exact_count,
    check_goes_on_from_masks,
    check_left_as_found,
    check_refusal_changes_nothing,
    check_zeros,
)
from secateur.testing._online import (
    check_online_is_refused_offline,
    check_resumes,
    check_serves,
    check_trains,
)
from secateur.testing._program import check_program

_ALONE = (check_value, check_docstring)
_OFFLINE = (
    check_exact_count,
    check_deterministic,
    check_left_as_found,
    check_zeros,
    check_refusal_changes_nothing,
    check_goes_on_from_masks,
)
_ONLINE = (check_serves, check_trains, check_resumes, check_online_is_refused_offline)

#: All checks of a method, in the order in which `check_method` runs them.
CHECKS: tuple[Callable[..., None], ...] = (*_ALONE, *_OFFLINE, *_ONLINE)

__all__ = [
    "CHECKS",
    "MODELS",
    "Case",
    "Factory",
    "case",
    "check_deterministic",
    "check_docstring",
    "check_exact_count",
    "check_goes_on_from_masks",
    "check_left_as_found",
    "check_method",
    "check_online_is_refused_offline",
    "check_program",
    "check_refusal_changes_nothing",
    "check_resumes",
    "check_serves",
    "check_trains",
    "check_value",
    "check_zeros",
    "checks_of",
    "models_of",
]


def checks_of(factory: Factory, *, density: float = 0.3) -> tuple[Callable[..., None], ...]:
    """The checks that concern a method: those of `prune` only where it works without training."""
    return (*_ALONE, *(() if made(factory, density).online else _OFFLINE), *_ONLINE)


def check_method(factory: Factory, *, density: float = 0.3) -> None:
    """Check that `factory(density)` is a well-behaved method, on an MLP, a conv+BN net, an LSTM and a transformer.

    Exact count, determinism under a generator, the model left exactly as found but for the zeros (modes, buffers,
    gradients, hooks, random state), keys unchanged, zeros where the masks say, an error that changes nothing, a value
    that can be hashed and printed, and a docstring with arXiv id and *Deviates:*; under a Pruner the same bits after a
    stop and a resume. A method may refuse models that lack what it is about (`UnfitModelError`), not all of them, and
    must leave those as found. A factory that asks for `until`, `end`, `steps` or `every` is given a short clock, and
    one that prunes in more than six `rounds` is given six, but where its count is checked; one that does not take a
    density is checked as a method whose density emerges.

    Raises:
        AssertionError: naming the check and the model.
    """
    for check in checks_of(factory, density=density):
        if "model" in inspect.signature(check).parameters:
            for model in models_of(factory, density=density):
                check(factory, density=density, model=model)
        else:
            check(factory, density=density)
