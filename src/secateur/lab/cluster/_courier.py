"""A run on another machine: its files go there, and come back as parcels while it works."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from secateur import __version__
from secateur._base.errors import OF_THE_OUTCOME, SecateurError
from secateur.lab.comparing import Places, run_at
from secateur.lab.experiment import Experiment, pretraining
from secateur.lab.repeat import BusyError, locked, write_bytes
from secateur.lab.running import CHECKPOINT, EXPERIMENT, LEVEL, MASKS, PRUNE, RESULT, START, WEIGHTS, Progress

#: A run's files, in the order in which it writes them; a program's trainings come right after the first.
FILES = (EXPERIMENT, START, PRUNE, MASKS, CHECKPOINT, WEIGHTS, RESULT)

_LOOK_EVERY = 0.2  # seconds between two looks at what has changed
_PREFIX = "secateur-run-"
# Seconds after which a scratch directory without an owner is removed: making and owning one take two calls.
_ABANDONED = 60.0


@dataclass(frozen=True)
class Job:
    """What is sent out: the experiment, where it is at home, its threads, the files that it has so far, by whom.

    `before` are the files of the dense run that it starts from, where that is finished at home.
    """

    experiment: Experiment
    places: Places
    threads: int
    files: Mapping[str, bytes]
    version: str = __version__
    before: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Parcel:
    """What comes back: files that are new, the latest news, whether it is the last one, and why the run failed."""

    files: Mapping[str, bytes]
    news: Progress | None = None
    done: bool = False
    failure: str | None = None


def pack(directory: Path) -> dict[str, bytes]:
    """Read the files of a run that exist."""
    return {name: content for name in reversed(_files(directory)) if (content := _read(directory / name)) is not None}


def unpack(files: Mapping[str, bytes], directory: Path) -> None:
    """Write files of a run, each atomically and in the order of the run, so that no later one is there alone."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=_rank):
        write_bytes(directory / name, files[name])


def work(job: Job) -> Iterator[Parcel]:
    """Run a job in a scratch directory of this machine; give each file soon after it is written, and the news.

    A `SecateurError` is the last parcel's failure; any other error is raised.
    """
    if job.version != __version__:
        other = f"{platform.node()} has Secateur {__version__}, and {job.version} sent the run"
        yield Parcel({}, done=True, failure=f"{other}. Install the same version on all nodes.")
        return
    name = job.experiment.name
    with _scratch() as scratch:
        unpack(job.files, scratch / name)
        twin = pretraining(job.experiment) if job.before else None
        if twin is not None:
            unpack(job.before, scratch / twin.name)
        sent = {file: _stamp(scratch / name / file) for file in _files(scratch / name)}
        news: list[Progress] = []
        running = _start(lambda: _run(job, scratch, news))
        while not wait([running], timeout=_LOOK_EVERY).done:
            files = _changed(scratch / name, sent)
            latest = _last(news)
            if files or latest:
                yield Parcel(files, latest)
        problem = running.exception()
        if problem is not None and not isinstance(problem, SecateurError):
            raise problem
        # The message names what can be deleted: the files at home, of which those here are copies.
        failure = None if problem is None else str(problem).replace(str(scratch), str(job.places.root))
        yield Parcel(_changed(scratch / name, sent), _last(news), done=True, failure=failure)


def _run(job: Job, scratch: Path, news: list[Progress]) -> None:
    torch.set_num_threads(job.threads)
    run_at(job.experiment, replace(job.places, root=scratch), on_progress=news.append)


def _start(call: Callable[[], None]) -> Future[None]:
    """Call in a thread that does not keep its process alive: a worker that is told to go goes at once."""
    future: Future[None] = Future()

    def body() -> None:
        try:
            with warnings.catch_warnings():
                for kind in OF_THE_OUTCOME:  # they stand in the result
                    warnings.simplefilter("ignore", kind)
                call()
        except BaseException as problem:  # the waiting thread raises or reports it
            future.set_exception(problem)
        else:
            future.set_result(None)

    threading.Thread(target=body, daemon=True).start()
    return future


def _last(news: list[Progress]) -> Progress | None:
    """Take the latest of the news, which a training thread goes on to append, and drop the older ones.

    "done" is left out: a run is done when its files are at home.
    """
    count = len(news)
    latest = next((one for one in reversed(news[:count]) if one.stage != "done"), None)
    del news[:count]
    return latest


def _changed(directory: Path, sent: dict[str, tuple[int, int] | None]) -> dict[str, bytes]:
    """Read what has changed since it was last sent. Newest kinds first: what they rest on is then there too."""
    found = {}
    for name in reversed(_files(directory)):
        stamp = _stamp(directory / name)
        if stamp is not None and stamp != sent.get(name):
            content = _read(directory / name)
            if content is not None:
                found[name], sent[name] = content, stamp
    return found


def _files(directory: Path) -> list[str]:
    """Name what a run may have by now, in the order in which it writes it."""
    return sorted({*FILES, *(path.name for path in directory.glob(f"{LEVEL}*"))}, key=_rank)


def _rank(name: str) -> tuple[float, str]:
    """Where a file stands in that order."""
    return (FILES.index(name), "") if name in FILES else (0.5, name)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what differs between two files that were put in one place, one after the other."""
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None


def _read(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):  # a checkpoint goes when its run is done
        return path.read_bytes()
    return None


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a directory for a run. A killed worker cannot remove its own: those that are old and unlocked go first."""
    parent = Path(tempfile.gettempdir())
    for old in parent.glob(f"{_PREFIX}*") if os.name == "posix" else ():
        with suppress(OSError, BusyError):  # another user's, in use, or gone by now
            if time.time() - old.stat().st_mtime > _ABANDONED:
                with locked(old):
                    shutil.rmtree(old)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name,
        locked(Path(name)),
    ):
        yield Path(name)
