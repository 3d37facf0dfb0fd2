"""Thousands of damaged files of every kind: each is refused in a sentence, or read; with a checksum, as it was written.

A few dozen of each kind by default; SECATEUR_MUTANTS=2000 makes so many, SECATEUR_MUTANTS_SEED others of them.
"""

from __future__ import annotations

import json
import os
import random
import resource
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mutant_cases import mutant
from secateur._base.errors import MeasurementsWarning, SecateurError
from secateur._base.files import CHECKSUM
from secateur.cli import main
from secateur.cli.commands.models._opened import weights_in
from secateur.lab import data
from secateur.lab.experiment import Constant, Engine, Experiment, Recipe, untrained
from secateur.lab.paper import read_records
from secateur.lab.running import Checkpoint, Choice, Progress, Result, experiment_in, run, start
from secateur.lab.running._work import load_weights
from secateur.masks import Masks
from secateur.sparse.measured._machine import _read as read_break_evens
from secateur.sparse.timing import remembered

COUNT = int(os.environ.get("SECATEUR_MUTANTS", "40"))
SEED = int(os.environ.get("SECATEUR_MUTANTS_SEED", "0"))

EXPERIMENT = Experiment("mlp-64-6-10", "digits", "snip", 0.2, Recipe(6, Constant(0.05), batch=20), engine=Engine.TORCH)


@dataclass(frozen=True)
class Kind:
    """A kind of file: one that is whole, how it is read, and what `secateur show` is given of it."""

    path: Path
    read: Callable[[], object]
    shown: Path | None = None
    sealed: bool = True


def plain(content: object) -> object:
    """What was read, so that it can be compared: masks, tensors and values as text and numbers."""
    if isinstance(content, Masks | dict):
        return {name: plain(value) for name, value in content.items()}
    if isinstance(content, Tensor):
        return content.dtype, tuple(content.shape), content.tolist()
    if isinstance(content, tuple | list):
        return [plain(value) for value in content]
    return plain(dict(content.facts)) if isinstance(content, Result) else content


def same(found: object, written: object) -> bool:
    """Whether what is read says what was written; NaN is equal to itself."""
    return repr(found) == repr(written)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and a checkpoint that was on its way."""
    root = tmp_path_factory.mktemp("mutants")

    def keep(news: Progress) -> None:
        checkpoint = root / EXPERIMENT.name / "checkpoint.safetensors"
        if checkpoint.exists():
            (root / "checkpoint.safetensors").write_bytes(checkpoint.read_bytes())

    run(EXPERIMENT, root=root, dataset=data.load("digits", seed=0), save_every=0.0, on_progress=keep)
    return root


def kinds(root: Path) -> dict[str, Kind]:
    folder = root / EXPERIMENT.name
    masks, weights = folder / "masks.safetensors", folder / "weights.safetensors"
    checkpoint = root / "checkpoint.safetensors"
    found = {
        "masks": Kind(masks, lambda: Masks.load(masks), masks),
        "weights": Kind(weights, lambda: weights_of(weights), weights),
        "checkpoint": Kind(checkpoint, lambda: resumed(checkpoint), checkpoint),
        "experiment": Kind(folder / "experiment.json", lambda: experiment_in(folder), folder),
        "result": Kind(folder / "result.json", lambda: Result.load(folder), folder),
    }
    for name in ("masks", "weights", "checkpoint", "experiment", "result"):
        found[f"{name} of an earlier version"] = Kind(found[name].path, found[name].read, found[name].shown, False)
    records, pickled, machine = root / "table.expected.json", root / "w.pt", root / "machine.json"
    found["records"] = Kind(records, lambda: read_records(records), None, False)
    old = root / "old.pt"
    found["pt"] = Kind(pickled, lambda: weights_in(pickled), pickled, False)
    found["pt of torch before 1.6"] = Kind(old, lambda: weights_in(old), old, False)
    found["machine"] = Kind(machine, lambda: measured(machine), None, False)
    return found


def weights_of(path: Path) -> dict[str, Tensor]:
    model = untrained(EXPERIMENT)
    load_weights(model, path)
    return model.state_dict()


def resumed(path: Path) -> object:
    """What a run goes on from."""
    checkpoint = Checkpoint(path, json.loads(OWNER[path]))
    saved, model = checkpoint.load(), untrained(EXPERIMENT)
    assert saved is not None
    stepper = start(Choice(Engine.TORCH, ""), model, None, EXPERIMENT.recipe.optimizer, bf16=False)
    try:
        checkpoint.put_back(saved, model, stepper)
    finally:
        stepper.close()
    return saved.trail.to_json(), model.state_dict(), stepper.state()


OWNER: dict[Path, str] = {}


def measured(path: Path) -> object:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = remembered(path, "here", lambda: (), write=lambda _: [], read=read_break_evens)
    if caught:
        assert [one.category for one in caught] == [MeasurementsWarning]
        raise SecateurError(str(caught[0].message))
    assert all(one.size >= 1 and one.batch >= 1 and 0 <= one.density <= 1 for one in found)
    return None


def make_others(root: Path) -> None:
    """The kinds of file that a run does not leave."""
    content = {"model": nn.Linear(5, 3).state_dict(), "epoch": 3}
    torch.save(content, root / "w.pt")
    torch.save(content, root / "old.pt", _use_new_zipfile_serialization=False)
    table = [{"size": size, "batch": batch, "density": 0.25} for size in (64, 256) for batch in (1, 128)]
    (root / "machine.json").write_text(json.dumps({"here": table, "elsewhere": 1}))
    ours = {
        "experiment": EXPERIMENT.to_json(), "errors": [1.5], "best": [1.25], "seconds": [2.0], "seeds": [0], "kept": 84,
        "engine": "torch", "threads": 1, "machine": "Abacus", "data": "Digits", "command": "secateur", "failures": [],
    }  # fmt: skip
    (root / "table.expected.json").write_text(
        json.dumps({"format": "secateur.expected/1", "cells": [{"cell": "a", "ours": ours}]})
    )
    path = root / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        OWNER[path] = json.dumps(json.loads(file.metadata()["about"])["owner"])


def unsealed(content: bytes, path: Path) -> bytes:
    """A file as an earlier version wrote it."""
    if path.suffix == ".json":
        return json.dumps({name: value for name, value in json.loads(content).items() if name != CHECKSUM}).encode()
    with safe_open(path, framework="pt") as file:
        about = {name: text for name, text in (file.metadata() or {}).items() if name != CHECKSUM}
    save_file(load_file(path), path, metadata=about or None)
    return path.read_bytes()


NAMES = ["masks", "weights", "checkpoint", "experiment", "result"]
ALL = [
    *NAMES,
    *(f"{name} of an earlier version" for name in NAMES),
    "records",
    "pt",
    "pt of torch before 1.6",
    "machine",
]


@pytest.mark.timeout(120 + COUNT)
@pytest.mark.parametrize("name", ALL)
def test_every_mutant_is_refused_in_a_sentence_or_read(
    name: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_others(there)
    kind = kinds(there)[name]
    before = kind.path.read_bytes()
    whole = unsealed(before, kind.path) if name.endswith("version") else before
    kind.path.write_bytes(whole)
    written, refused = plain(kind.read()), 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for index in range(COUNT):
            content = mutant(random.Random(f"{SEED} {name} {index}"), whole)
            kind.path.write_bytes(content)
            checked = (
                kind.sealed and CHECKSUM.encode() in content
            )  # without its name it is a file of an earlier version
            try:
                found = plain(kind.read())
                assert not checked or same(found, written), f"mutant {index} of seed {SEED} was read as another"
            except SecateurError as problem:
                refused += 1
                assert str(problem).isprintable(), f"mutant {index} of seed {SEED}: {problem!r}"
            if kind.shown is not None:
                assert main(["show", str(kind.shown)]) in (0, 1, 2), f"mutant {index} of seed {SEED}"
                assert "\x1b" not in capsys.readouterr().out
    except SecateurError:
        raise
    except Exception as problem:
        problem.add_note(f"mutant {index} of {name}, SECATEUR_MUTANTS_SEED={SEED}")
        raise
    finally:
        kind.path.write_bytes(before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{name}: {refused} of {COUNT} mutants of seed {SEED} refused, the others read; {grown:.0f} MB more at most")
    assert grown < 500
    assert refused > COUNT // 4
