"""`secateur report`: of a run, of a network of one's own, of a checkpoint; into a page; and wrong words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.cli import main
from secateur.masks import Masks
from secateur.reporting import _report
from secateur.sparse import BreakEven, Machine, sparsify

OWN = """
from torch import nn

def small():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
"""
NEVER = Machine("never", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.0),))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_nets.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    monkeypatch.setattr(_report, "sparsify", lambda model, masks, **_: sparsify(model, masks, machine=NEVER))


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["report", *words, "--seconds", "0.02", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_told_by_its_masks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--data", "digits", "--density", "0.1", "--steps", "3", "--quiet", "--json"]) == 0
    capsys.readouterr()
    run = next(Path("runs").iterdir())
    found = asked(capsys, str(run), "--html", "page.html")
    masks = Masks.load(next(run.glob("*masks*")))
    assert (found["kept"], found["numel"]) == (masks.kept, masks.numel)
    assert [layer["name"] for layer in found["layers"]] == list(masks)
    page = Path("page.html").read_text(encoding="utf-8")
    assert all(name in page for name in masks)


def test_a_checkpoint_is_told_by_its_zeros(capsys: pytest.CaptureFixture[str]) -> None:
    net: Any = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)[1:].zero_()
        net[2].weight.fill_(1.0)
    save_file(net.state_dict(), "weights.safetensors")
    words = ["weights.safetensors", "--model", "own_nets:small", "--input", "6"]
    found = asked(capsys, *words)
    assert [(layer["kept"], layer["dead"]) for layer in found["layers"]] == [(6, 4), (10, 0)]
    assert [way["name"] for way in found["ways"]] == ["dense", "held", "sparse", "shrunk"]
    assert main(["report", *words, "--seconds", "0.02", "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    assert "0.weight" in said and "Written to page.html" in said


def test_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "own_nets:small", "--input", "6", "--html", "nowhere/page.html"]) == 2
    assert "there is no directory nowhere" in capsys.readouterr().err
    assert main(["report", "gone.safetensors"]) == 2
    assert "there is nothing at gone.safetensors" in capsys.readouterr().err
