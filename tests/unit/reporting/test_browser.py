"""The page of a report in a browser, as wide as a phone and as a desk: opt in with SECATEUR_CHROMIUM=chromium."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import methods, prune, report
from secateur.reporting import Curve

BROWSER = os.environ.get("SECATEUR_CHROMIUM")


@pytest.mark.skipif(not BROWSER, reason="SECATEUR_CHROMIUM names no browser")
@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_is_wider_than_the_window_but_tables_that_scroll(width: int, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    masks = prune(net, methods.lamp(density=0.05))
    page = tmp_path / "report.html"
    report(net, masks, torch.rand(2, 1, 28, 28), seconds=0.02, curves=[Curve("loss", [(1, 2.0), (9, 1.0)])]).save(page)
    said = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script></body>"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", said), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    asked = [str(BROWSER), *options, f"--window-size={width},900", "--dump-dom", f"file://{page}"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=100).stdout
    (wide, window) = map(int, re.findall(r"<title>(\d+) of (\d+)</title>", found)[0])
    assert wide <= window
