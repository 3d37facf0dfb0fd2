"""What two processes found, for the tests to compare with one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distributed import all_workers
from scheduling import started_once

Results = list[dict[str, Any]]


@pytest.fixture(scope="session")
def found_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[int, str], None]], Results]:
    """Run all workers in two fresh processes that meet in files; return how to read what one of them has saved."""
    started_once("ranks", tmp_path_factory)
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(all_workers.everything, args=(str(folder),), nprocs=all_workers.RANKS, join=True)

    def read(worker: Callable[[int, str], None]) -> Results:
        files = [folder / worker.__name__ / f"rank{rank}.pt" for rank in range(all_workers.RANKS)]
        return [torch.load(file, weights_only=True) for file in files]

    return read
