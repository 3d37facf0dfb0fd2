"""`secateur bench`: one table over all ways to run a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur._base import door
from secateur.cli import main

QUICK = ["--seconds", "0.02", "--batch", "8"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_bench_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "mlp-30-20-7", "--sparsity", "90%", *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["batch"], report["kept"]) == ("secateur.bench/1", 8, 74)  # 10 % of 600 + 140
    rows = {row["name"]: row for row in report["rows"]}
    assert {"dense, torch", "masked", "sparsified", "fused"} <= set(rows)
    dense = rows["dense, torch"]
    assert dense["step"] > 0 and dense["parameter_bytes"] == 4 * (600 + 140 + 27)
    assert (rows["fused"]["step"] is not None) == (door.native is not None)


def test_bench_of_a_run_and_of_what_cannot_be_fused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--steps", "2", "--runs", "r", "--compare", "snip,dense"]) == 0
    snip, dense = (next(Path("r").glob(f"{method}*")) for method in ("snip", "dense"))
    capsys.readouterr()
    assert main(["bench", str(snip), *QUICK]) == 0
    assert "5.0 % kept" in capsys.readouterr().out
    assert main(["bench", str(dense), *QUICK]) == 1
    assert "has no masks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet-300"], "Did you mean 'lenet-300-100'?"),
        (["mlp-x"], "got 'mlp-x'"),
        (["lenet-300-100", "--method", "snp"], "there is no method 'snp'. Did you mean 'snip'?"),
        (["."], "is not a run's directory"),
        (["lenet-300-100", "--seconds", "0"], "expected a number of seconds above 0, got '0'."),
    ],
)
def test_wrong_words(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
