"""What came out of each run, one line of JSON each, in a file that the repository keeps and only adds to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from secateur._base.errors import SecateurError, UnfitModelError
from secateur._base.files import write_whole
from secateur.lab import data
from secateur.lab.experiment import Experiment, tags_of, untrained
from secateur.lab.referee._plan import Plan
from secateur.lab.repeat import damaged, read_json
from secateur.lab.running import MASKS, PRUNE, Result
from secateur.masks import Masks
from secateur.signals import effective

_COLLAPSED = 0.02  # an error within two points of chance


@dataclass(frozen=True)
class Line:
    """One run.

    Args:
        method, of, asked, seed: what it was; see `Plan`.
        error: on the test set after the last step, as a fraction; None where the run failed.
        density: what stayed of the prunable weights.
        effective: of those kept, the fraction on some path from input to output; None where paths cannot be followed.
        layers: kept and all, layer by layer.
        steps: training steps of the run itself.
        work: all of its training in steps of the dense network, pre-training and what a program trains counted.
        prune, train: seconds of both; train includes pre-training.
        collapsed: whether its error is chance.
        packed, whole: bytes of the network on disk, surviving weights and packed bits, and dense.
        dense_ms, sparse_ms: of a forward of 100 examples, dense and sparsified, where they were measured.
        machine, versions: what computed it.
        run: the name of its directory.
        failure: what went wrong.
    """

    method: str
    of: str
    asked: float | None
    seed: int
    error: float | None = None
    density: float | None = None
    effective: float | None = None
    layers: tuple[tuple[int, int], ...] = ()
    steps: int = 0
    work: float = 0.0
    prune: float = 0.0
    train: float = 0.0
    collapsed: bool = False
    packed: int = 0
    whole: int = 0
    dense_ms: float | None = None
    sparse_ms: float | None = None
    machine: str = ""
    versions: str = ""
    run: str = ""
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what differs from nothing, as JSON-ready data."""
        plain = Line("", "", None, 0)
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in told.items() if value != getattr(plain, name) or name in _ALWAYS}

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Line:
        """Rebuild a line from `to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: it is no such data.
        """
        known = {str(name): told[name] for name in told}
        words = [told[name] for name in ("method", "of")]
        if not all(isinstance(word, str) for word in words) or not isinstance(told["seed"], int):
            raise ValueError(f"it has {words} for a method, and {told['seed']!r} for a seed")
        known["layers"] = tuple((int(kept), int(whole)) for kept, whole in told.get("layers", ()))
        return Line(**known)


_ALWAYS = ("method", "of", "asked", "seed")


def key(line: Line | Plan) -> tuple[str, str, float | None, int]:
    """Return what tells lines of a setting apart."""
    seed = line.seed if isinstance(line, Line) else line.experiment.seed
    return line.method, line.of, line.asked, seed


def line_of(plan: Plan, outcome: Result | str, spent: Mapping[str, float]) -> Line:
    """Make the line of a run.

    Args:
        plan: what was run.
        outcome: its result, or what went wrong.
        spent: by the name of a run, the seconds of its training: those of the dense run that this one started from
            count as its own.
    """
    same = {"method": plan.method, "of": plan.of, "asked": plan.asked, "seed": plan.experiment.seed}
    if isinstance(outcome, str):
        return Line(**same, failure=" ".join(outcome.split()), run=plan.experiment.name)
    facts = outcome.facts
    layers = tuple((int(layer["kept"]), int(layer["numel"])) for layer in facts["layers"])
    before = sum(spent.values())
    chance = 1 - 1 / data.catalogue()[plan.experiment.data].num_classes
    return Line(
        **same,
        error=round(outcome.test_error, 6),
        density=round(float(facts["density"]), 6),
        effective=_effective(outcome),
        layers=layers,
        steps=int(facts["steps"]),
        work=round(_work(plan, facts, outcome.directory), 1),
        prune=round(float(facts["seconds"]["prune"]), 2),
        train=round(float(facts["seconds"]["train"]) + before, 2),
        collapsed=outcome.test_error > chance - _COLLAPSED,
        packed=int(facts["bytes"]["packed"]),
        whole=int(facts["bytes"]["dense"]),
        machine=str(facts["machine"].get("accelerator") or facts["machine"]["cpu"]),
        versions=f"secateur {facts['machine']['secateur']}, torch {facts['machine']['torch']}",
        run=plan.experiment.name,
    )


def _work(plan: Plan, facts: Mapping[str, Any], directory: Path) -> float:
    """Return the training of a run in steps of the dense network.

    A step of a network that was pruned before it is counted by the weights that are left, whatever engine computed it;
    one in which a method acts, or in a program's levels, as a dense one.
    """
    run, tags = plan.experiment, tags_of(plan.experiment)
    own = 0.0 if "complete" in tags else float(facts["steps"])  # whose last training is among those that it asked for
    if "online" not in tags and run.density < 1:
        own *= float(facts["density"])
    return own + (_by_program(directory) if "program" in tags else 0) + _before(run)


def _before(run: Experiment) -> int:
    """Return the steps of all that a run begins with."""
    first = run.pretrain
    if isinstance(first, Experiment):
        return first.recipe.steps + _before(first)
    return 0 if first is None else first.steps


def _by_program(directory: Path) -> int:
    """Return the training steps that a program asked for."""
    path = directory / PRUNE
    return int(read_json(path).get("trained", 0)) if path.exists() else 0


def _effective(result: Result) -> float | None:
    """Return the part of the kept weights that lies on paths; None without masks, and where none can be followed."""
    path = result.directory / MASKS
    if not path.exists():
        return None
    masks, shape = Masks.load(path), data.catalogue()[result.experiment.data].shape
    try:
        found = effective(untrained(result.experiment), masks, torch.zeros(1, *shape))
    except UnfitModelError:
        return None
    return round(found.kept / masks.kept, 4) if masks.kept else 0.0


def read_lines(path: Path) -> dict[tuple[str, str, float | None, int], Line]:
    """Read what is recorded of a setting, by `key`; nothing where there is no file.

    Raises:
        ArtefactError: the file is damaged.
    """
    if not path.exists():
        return {}
    found = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = Line.from_json(json.loads(text))
        except (KeyError, TypeError, ValueError, SecateurError) as problem:
            raise damaged(path, f"line {number}: {type(problem).__name__}: {problem}") from None
        found[key(line)] = line
    return found


def keep_lines(path: Path, fresh: Iterable[Line]) -> None:
    """Add lines to what is recorded, atomically and in a fixed order; a run that was recorded is replaced."""
    known = read_lines(path) | {key(line): line for line in fresh}
    ordered = sorted(known.values(), key=lambda line: (line.method, line.of, -(line.asked or 0.0), line.seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line.to_json(), ensure_ascii=False) + "\n" for line in ordered)
    write_whole(path, text.encode())
