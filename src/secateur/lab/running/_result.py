"""What a run's directory says of itself: which experiment it belongs to, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from secateur._base.errors import SecateurError
from secateur.lab.experiment import Experiment
from secateur.lab.repeat import ArtefactError, damaged, read_json
from secateur.lab.running._work import EXPERIMENT, RESULT

_NUMBER = (int, float)

#: The facts that a result has at least, and of which kind: what reports rely on.
_FACTS: Mapping[str, type | tuple[type, ...]] = {
    "test_error": _NUMBER,
    "validation_error": (*_NUMBER, type(None)),
    "best.test_error": _NUMBER,
    "best.epoch": _NUMBER,
    "best.step": int,
    "steps": int,
    "epochs": _NUMBER,
    "seed": int,
    "density": _NUMBER,
    "kept": int,
    "prunable": int,
    "empty": list,
    "bytes.dense": _NUMBER,
    "bytes.packed": _NUMBER,
    "seconds.prune": _NUMBER,
    "seconds.train": _NUMBER,
    "seconds.evaluate": _NUMBER,
    "engine.name": str,
    "engine.why": str,
    "data.title": str,
    "machine": dict,
}


@dataclass(frozen=True)
class Result:
    """A finished run: the experiment, its directory, and the facts of its result.json."""

    experiment: Experiment
    directory: Path
    facts: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def test_error(self) -> float:
        """Fraction of wrongly classified test examples after the last step."""
        return float(self.facts["test_error"])

    @property
    def best_test_error(self) -> float:
        """The lowest test error of all evaluations: chosen on the test set, so optimistic."""
        return float(self.facts["best"]["test_error"])

    @staticmethod
    def load(directory: Path) -> Result:
        """Read a finished run's result.

        Raises:
            ArtefactError: result.json is damaged.
        """
        path = directory / RESULT
        content = read_json(path)
        try:
            experiment = Experiment.from_json(content["experiment"])
            for name, kind in _FACTS.items():
                _check_fact(content, name, kind)
        except (KeyError, TypeError, ValueError) as problem:
            raise damaged(path, f"{type(problem).__name__}: {problem}") from None
        return Result(experiment, directory, content)


def experiment_in(directory: Path) -> Experiment:
    """Read which experiment a run's directory belongs to.

    Raises:
        ArtefactError: experiment.json is damaged, or was written by a newer Secateur.
    """
    path = directory / EXPERIMENT
    try:
        return Experiment.from_json(read_json(path))
    except ArtefactError:
        raise
    except SecateurError as problem:
        raise damaged(path, str(problem)) from None


def _check_fact(facts: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> None:
    value: Any = reduce(lambda found, word: found[word], name.split("."), facts)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"`{name}` cannot be {value!r}")
    if name == "density" and not 0 <= value <= 1:
        raise ValueError(f"`density` must be in [0, 1], got {value}")
