"""What every test shares: shapes checked at run time, one seed, one thread, where the data sets are."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch loads OpenMP: beside other workers on the same cores, a thread that spins while it waits for its fellows
# keeps them from running, and a step of two threads takes a hundred times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch

from scheduling import scheduler


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


# The extra `dev` has all three. A machine with a GPU and no package index may have none: tests run there without.
ANNOTATIONS_CHECKED = _installed("jaxtyping", "beartype")
if ANNOTATIONS_CHECKED:
    import typecheck

    # Before anything imports secateur: every annotation, tensor shapes included, is checked while the tests run.
    typecheck.install("secateur")

if _installed("hypothesis"):
    from hypothesis import HealthCheck, settings

    # Drawn examples are the same in every run, and none fails for being slow on a busy machine.
    slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=slow_is_fine)
    settings.load_profile("house")

# A run flushes each of its files to the disk before it goes on, and the tests write thousands: in memory, where there
# is room, that takes no time. Whoever names a folder, by TMPDIR or pytest's own variable, gets that one.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**31 and "TMPDIR" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

ROOT = Path(__file__).resolve().parent.parent

# The arrays in tests are small: more threads than one cost more than they bring.
torch.set_num_threads(1)

# Torch gives some warnings once per process only: which test they fail would depend on the order of the tests.
torch.set_warn_always(True)


def pytest_report_header() -> str:
    """Say in the first lines of a run what it checked and with what."""
    from secateur._base import door

    checked = "checked at run time" if ANNOTATIONS_CHECKED else "NOT checked (needs jaxtyping and beartype)"
    return f"secateur: annotations {checked}; kernels: {door.why_not or door.isa()}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together what shares a cluster, a process or the like: see scheduling.py."""
    return scheduler(config, log)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not walk through torch again and again."""
    gc.collect()
    gc.freeze()


def _process_state() -> dict[str, object]:
    """Return the switches of torch that one test could leave changed for the next."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradients enabled": torch.is_grad_enabled(),
        "number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture(autouse=True)
def _seeded_and_tidy() -> Iterator[None]:
    """Start every test from the same random state, and fail the one that leaves a switch of torch changed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = _process_state()
    yield
    after = _process_state()
    assert after == before, f"the test changed {[name for name in before if after[name] != before[name]]}"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured about this machine while testing stays out of the user's own cache; workers share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(folder / "cache"))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """A torch.Generator with a fixed seed, for the functions that draw."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The published data sets: $SECATEUR_DATA, or shared/datasets beside the checkout; else a skip."""
    candidates = [Path(os.environ["SECATEUR_DATA"])] if os.environ.get("SECATEUR_DATA") else []
    candidates.append(ROOT.parent / "shared" / "datasets")
    for folder in candidates:
        if (folder / "MNIST").is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    pytest.skip(f"needs the published data sets; looked in {looked}. Set SECATEUR_DATA to their folder.")
