"""A cluster that the runs begin themselves, on this machine, is nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the cluster is Ray's (extra `ray`)")

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(300)]

#: 127.0.0.1, the same written as IPv6, and ::1, in the byte order of /proc/net/tcp.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into Linux's /proc")
def test_a_cluster_without_an_address_listens_to_this_machine_only(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # not below pytest's: paths of sockets are short
        quiet = {"RAY_TMPDIR": folder, "TMPDIR": folder, "HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        driver = Path(__file__).with_name("alone_driver.py")
        done = subprocess.run(
            [sys.executable, str(driver), str(tmp_path)], capture_output=True, text=True, env=kept | quiet, timeout=280
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["failures"] == [] and said["switch"] is None
    assert len(list(tmp_path.glob("*/result.json"))) == 1
    assert said["listening"] and set(said["listening"]) <= LOOPBACK
