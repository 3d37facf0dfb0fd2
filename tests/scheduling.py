"""Which worker runs what: tests that share something that takes seconds to start stay on one worker, and go first.

By file, since the process that hands out the tests knows no more than their names. (pytest-xdist's own mark for this is
silently without effect where pytest 9.2 or newer is installed: it writes the group into a private field that is gone.)
"""

from __future__ import annotations

import os
from typing import Any

import pytest

#: What is shared → the files whose tests share it.
TOGETHER = {
    "cluster": ("tests/distributed/test_ray.py",),
    "commands": ("tests/e2e/test_interrupt.py", "tests/e2e/test_kill.py"),
    "ranks": (
        "tests/distributed/test_exchange_distributed.py",
        "tests/distributed/test_hold_distributed.py",
        "tests/distributed/test_measures_distributed.py",
        "tests/distributed/test_scoring_distributed.py",
        "tests/distributed/test_sharded_distributed.py",
    ),
}
_SCOPES = {file: name for name, files in TOGETHER.items() for file in files}


def scope_of(test: str) -> str:
    """Return the name of the group a test is in, or its own where it is in none."""
    return _SCOPES.get(test.partition("::")[0], test)


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Make what hands out tests: whole groups first, those of most tests before the others, then one by one.

    None where another way was asked for (`--dist each`, say).
    """
    if config.getoption("dist") not in ("load", "loadgroup"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return Scheduling(config, log)


def started_once(name: str, factory: pytest.TempPathFactory) -> None:
    """Fail where a second worker starts what all tests of a group share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is not None:
        started = factory.getbasetemp().parent / f"{run}.{name}"
        assert not started.exists(), f"{name}: its tests are on two workers; see tests/scheduling.py"
        started.touch()
