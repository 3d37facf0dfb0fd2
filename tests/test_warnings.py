"""Warnings point to the user's line, whatever stands between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch, warnings
from torch import nn
import secateur as sc

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.l = nn.Parameter(torch.zeros(8, 8)), nn.Linear(8, 4)

model, zeros = Own(), nn.Linear(8, 4)
nn.init.zeros_(zeros.weight)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    sc.prune(model, sc.methods.magnitude(0.3))
    sc.prune(zeros, sc.methods.magnitude(0.3))
    sc.Pruner(model, sc.methods.magnitude(0.3)).release()
    sc.prune(nn.Sequential(zeros, nn.Linear(4, 400)), sc.methods.magnitude(0.3))
print(*sorted({(w.category.__name__, w.filename == __file__) for w in told}))
"""


def test_warnings_name_the_line_of_the_user(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # a process of its own: here annotations are checked in frames between
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "('EmptyLayerWarning', True) ('LeftOutWarning', True) ('TiedScoresWarning', True)"
