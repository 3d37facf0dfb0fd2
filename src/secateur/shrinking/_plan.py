"""From a wish to a cut that the model's own code accepts: counterexamples are found by running it, and frozen."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import nn

from secateur._base.errors import SecateurError
from secateur.costing import Call
from secateur.coupling import Coupling, Frozen, Ids, Row, Step, on_meta, removable, solve_sizes, steps_of
from secateur.shrinking.cuts import Plan, cut_

__all__ = ["plan"]

_ROUNDS = 60
_AHEAD = 64
# C++ leaves these out where there is nothing to do, which may differ between the two runs.
_IDLE = frozenset(("contiguous", "to", "_to_copy", "detach", "alias", "clone"))


def plan(model: nn.Module, coupling: Coupling, wish: np.ndarray, call: Call) -> Plan:
    """Return the largest cut within the wish that was found.

    The cut copy runs on meta (for real, where the model looks at values), beside the record of the trace: the first
    operation that differs, or raises, has its classes frozen, with module and line, and the plan is made again. Each
    round freezes something, so it ends.

    Raises:
        SecateurError: no cut was found; it names what stood in the way last.
    """
    frozen, found = coupling.stays.copy(), []
    for _ in range(_ROUNDS):
        gone = removable(coupling, wish, frozen)
        numbers, refused = solve_sizes(coupling, gone)
        candidate = Plan(coupling, gone, numbers, tuple(found))
        wrong = [Frozen(each.ids, each.why, "size", "", "") for each in refused]
        wrong = wrong or _counterexample(model, candidate, call)
        if not wrong:
            return candidate
        before = int(frozen.sum())
        for each in wrong:
            frozen[each.ids] = True
        found += wrong
        if int(frozen.sum()) == before:
            break
    raise SecateurError(
        "`model` cannot be shrunk: its own code refuses the smaller sizes. Last found: "
        f"{'; '.join(dict.fromkeys(each.why for each in found[-3:]))}. Nothing was changed."
    )


def _counterexample(model: nn.Module, candidate: Plan, call: Call) -> list[Frozen]:
    """Run the cut model on meta beside the record; return what the first operation that differs touches."""
    steps, problem = _steps(model, candidate, call)
    old, new = ([step for step in each if step.place.op not in _IDLE] for each in (candidate.coupling.steps, steps))
    here = 0
    for k, step in enumerate(old):
        here = _again(candidate, step, new, here)
        if here < len(new) and _alike(candidate, step, new[here]):
            here += 1
            continue
        if here >= len(new) and problem is None:
            return []
        why = f"{type(problem).__name__}: {str(problem)[:120]}" if problem is not None else "its size is in the code"
        touched = [ids for ids in _labelled(step) if candidate.gone[ids].any()]
        if touched or k == len(old) - 1:
            place = step.place
            reason = f"{place.op} in {place.module or 'the model'} at {place.line}: {why}"
            return [Frozen(ids, reason, place.op, place.module, place.line) for ids in touched or [np.zeros(0, int)]]
    if problem is not None:
        reason = f"the smaller model raised {type(problem).__name__}: {str(problem)[:120]}"
        return [Frozen(np.zeros(0, int), reason, "none", "", "")]
    return []


def _steps(model: nn.Module, candidate: Plan, call: Call) -> tuple[list[Step], Exception | None]:
    """Run the cut model on meta, or for real where it looks at values, now or in the trace."""
    if candidate.coupling.meta:
        small = on_meta(model)
        cut_(small, candidate)
        steps, problem = steps_of(small, call.inputs, call.kwargs)
        if problem is None or "meta" not in str(problem):
            return steps, problem
    small = copy.deepcopy(model)
    cut_(small, candidate)
    return steps_of(small, call.inputs, call.kwargs)


def _again(candidate: Plan, step: Step, new: list[Step], here: int) -> int:
    """Where the record goes on: what a model does anew for new shapes (a table that it keeps) is passed over."""
    if here < len(new) and new[here].place.op == step.place.op:
        return here
    ahead = range(here, min(here + _AHEAD, len(new)))
    return next((k for k in ahead if _alike(candidate, step, new[k])), here)


def _labelled(step: Step) -> list[Ids]:
    return [ids for _, rows in (*step.outs, *step.ins) for ids in rows if ids is not None]


def _alike(candidate: Plan, step: Step, other: Step) -> bool:
    """Whether the small model's operation has the shapes that the labels predict, and begins where they say."""
    if other.place.op != step.place.op or len(other.outs) != len(step.outs):
        return False
    shapes = [tuple(map(candidate_size(candidate), rows, shape)) for shape, rows in step.outs]
    if shapes != [shape for shape, _ in other.outs]:
        return False
    return step.before is None or other.begin == candidate.count(step.before)


def candidate_size(candidate: Plan) -> Any:
    """Return the function (labels, size now) → size after the cut."""

    def size(ids: Row, now: int) -> int:
        return now if ids is None else candidate.count(ids)

    return size
