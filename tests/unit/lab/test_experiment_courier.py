"""Runs that are carried to another machine and back: what is in the parcels, in which order, and what is left."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secateur.lab.cluster import FILES, Job, Parcel, pack, unpack, work
from secateur.lab.comparing import Places
from secateur.lab.experiment import Constant, Experiment, Recipe
from secateur.lab.repeat import locked
from secateur.lab.running import run

BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(10, Constant(0.05), batch=50))


@pytest.fixture(autouse=True)
def scratches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps its temporary files."""
    folder = tmp_path / "scratches"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def job(experiment: Experiment, root: Path, files: dict[str, bytes] | None = None) -> Job:
    return Job(experiment, Places(root, None, "cpu", 0.0), 1, files or {})


def received(parcels: list[Parcel], directory: Path) -> None:
    for parcel in parcels:
        unpack(parcel.files, directory)


def test_all_files_of_a_run_come_home(tmp_path: Path, scratches: Path) -> None:
    expected = run(BASE, root=tmp_path / "local").directory
    parcels = list(work(job(BASE, tmp_path)))
    received(parcels, tmp_path / "home")
    assert [parcel.done for parcel in parcels] == [False] * (len(parcels) - 1) + [True]
    assert parcels[-1].failure is None
    names = {path.name for path in expected.iterdir() if path.name != ".lock"}
    # A run that writes another file has to say so in its FILES.
    assert {path.name for path in (tmp_path / "home").iterdir()} - {"checkpoint.safetensors"} == names
    assert (tmp_path / "home" / "weights.safetensors").read_bytes() == (expected / "weights.safetensors").read_bytes()
    assert not list(scratches.glob("secateur-*"))


def test_a_run_goes_on_from_the_files_that_are_sent(tmp_path: Path) -> None:
    longer = replace(BASE, recipe=Recipe(300, Constant(0.05), batch=50))
    whole = run(longer, root=tmp_path / "local").directory
    parcels = work(job(longer, tmp_path))
    home = tmp_path / "home"
    for parcel in parcels:
        unpack(parcel.files, home)
        if (home / "checkpoint.safetensors").exists():
            break
    parcels.close()  # type: ignore[attr-defined]
    files = pack(home)
    assert list(files)[::-1] == [name for name in FILES if name in files]
    again = list(work(job(longer, tmp_path, files)))
    assert "masks.safetensors" not in {name for parcel in again for name in parcel.files}  # nothing goes back unchanged
    received(again, home)
    assert (home / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_later_files_are_never_there_without_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("secateur.lab.cluster._courier.write_bytes", lambda path, content: written.append(path.name))
    unpack({name: b"" for name in sorted(FILES)}, tmp_path)
    assert written == list(FILES)


def test_a_failure_names_the_files_at_home(tmp_path: Path) -> None:
    *_, last = work(job(BASE, tmp_path / "home", {"experiment.json": b"{"}))
    assert last.done and last.failure is not None
    assert last.failure.startswith(f"{tmp_path / 'home' / BASE.name / 'experiment.json'} is damaged")


def test_another_version_is_refused(tmp_path: Path) -> None:
    (only,) = work(replace(job(BASE, tmp_path), version="0.0.1"))
    assert only.done and only.failure is not None
    assert "and 0.0.1 sent the run. Install the same version on all nodes." in only.failure


def test_errors_that_are_not_ours_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("secateur.lab.cluster._courier.run_at", full)
    with pytest.raises(OSError, match="no space left"):
        list(work(job(BASE, tmp_path)))


@pytest.mark.skipif(os.name != "posix", reason="needs locks that go with their process")
def test_what_killed_workers_left_is_removed(tmp_path: Path, scratches: Path) -> None:
    old, fresh, used = (scratches / f"secateur-run-{name}" for name in ("old", "fresh", "used"))
    for folder in (old, fresh, used):
        (folder / BASE.name).mkdir(parents=True)
    with locked(used):
        for folder in (old, used):
            os.utime(folder, (0, time.time() - 120))
        list(work(job(BASE, tmp_path)))
    assert sorted(path.name for path in scratches.glob("secateur-*")) == [fresh.name, used.name]
