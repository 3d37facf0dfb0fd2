"""The demo's picture, and what is drawn on a terminal."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest
from matplotlib.image import imread

from secateur.cli import main
from secateur.cli.runs import bars
from secateur.lab.experiment import RECIPES, Experiment
from secateur.lab.running import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_demo_compares_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--seeds", "1", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [line.split()[0] for line in captured.out.splitlines()[3:6]]
    assert rows == ["snip", "random", "dense"]
    picture = tmp_path / ".demo" / "demo.png"
    assert str(picture.relative_to(tmp_path)) in captured.out
    assert imread(picture).ndim == 3
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) → ([\d,]+) parameters", captured.out)[0])
    assert before == 50_610 and after < before / 2
    one, other = re.findall(r"(\d+) and (\d+) of 355 wrong", captured.out)[0]
    assert one == other, "the smaller network answers as the other one does"
    assert (tmp_path / ".demo" / "snip.sct").stat().st_size < 15_000
    assert "<html" in (tmp_path / ".demo" / "report.html").read_text(encoding="utf-8")
    assert main(["demo", "--seeds", "1", "--quiet"]) == 0  # nothing is computed twice
    assert capsys.readouterr().out == captured.out


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with bars(1, quiet=False) as on_progress:
        assert on_progress is not None  # pytest's stderr is no terminal: nothing drawn, and a sentence after a while
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with bars(1, quiet=True) as on_progress:
        assert on_progress is None
    experiment = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPES["demo"])
    with bars(2, quiet=False) as on_progress:
        assert on_progress is not None
        on_progress(Progress(experiment, "prune", 0, 600))
        on_progress(Progress(experiment, "train", 300, 600, 0.51234, 0.0321, 0.05))
        time.sleep(0.6)  # bars are drawn four times a second
        on_progress(Progress(experiment, "done", 600, 600))
    drawn = screen.getvalue()
    for words in ("snip · seed 0", "300/600", "loss 0.512", "error 3.21 %", "5 % kept"):
        assert words in drawn, words


def test_without_a_terminal_there_is_a_sentence_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPES["demo"])
    clock = iter([0.0, 9.9, 10.0, 10.0, 39.9, 40.0, 40.0])
    monkeypatch.setattr("secateur.cli.runs._progress.time.monotonic", lambda: next(clock))
    with bars(1, quiet=False) as on_progress:
        assert on_progress is not None
        for step in (1, 2, 3, 4):
            on_progress(Progress(experiment, "train", step, 600, 0.51234, 0.0321, 0.05))
    said = "secateur: snip · seed 0: step {} of 600  loss 0.512  error 3.21 %  5 % kept\n"
    assert capsys.readouterr().err == said.format(2) + said.format(4)
