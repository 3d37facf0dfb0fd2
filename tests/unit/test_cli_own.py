"""One's own network and data from the command line; many densities; lists of runs, tables and pictures of them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from secateur.cli import main
from secateur.lab.data import _sources
from secateur.lab.models import _own

NETS = """
from torch import nn

def small():
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 3))

def wide():
    return nn.Linear(5, 3)

def answers():
    return nn.Linear(12, 7)

one = small()
"""
MINE = """
import torch

def load():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(240, 12, generator=draw) * torch.arange(1, 13) + 5
    y = ((x - 5) / torch.arange(1, 13))[:, :3].argmax(1)
    return x[:180], y[:180], x[180:], y[180:]

def three():
    return load()[:3]

def fractions():
    x, y, a, b = load()
    return x, y.float(), a, b

def broken():
    x, y, a, b = load()
    return x / 0, y, a, b
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "own_data.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(_sources, "SOURCES", _sources.SOURCES)
    yield
    for name in [name for name in _sources.SOURCES if ":" in name]:
        del _sources.SOURCES[name]
    _own._ADMITTED.clear()
    for name in ("own_nets", "own_data"):
        sys.modules.pop(name, None)


OWN = ["run", "--model", "own_nets:small", "--data", "own_data:load", "--steps", "30", "--quiet"]


def test_several_densities_of_an_own_network_on_own_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = [*OWN, "--compare", "snip,dense", "--density", "50%,0.1", "--seeds", "2"]
    assert main([*asked, "--csv", "errors.csv", "--plot", "errors.png", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = [(row["method"], row["density"], row["kept"]) for row in document["rows"]]
    assert rows == [("snip", 0.5, 300), ("dense", 1, 600), ("snip", 0.1, 60)]
    table = list(csv.DictReader((tmp_path / "errors.csv").read_text().splitlines()))
    assert len(table) == 6 and {row["model"] for row in table} == {"own_nets:small"}
    by_directory = {result["directory"]: result for result in document["results"]}
    assert all(float(row["test_error"]) == by_directory[row["directory"]]["test_error"] for row in table)
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert main(["show", "runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert len(listed) == 6 and {run["state"] for run in listed} == {"finished"}
    assert sorted(run["test_error"] for run in listed) == sorted(float(row["test_error"]) for row in table)


def test_weights_are_drawn_by_the_seed_and_inputs_standardised() -> None:
    from secateur.lab import data, models

    models.admit("own_nets:small")
    data.admit("own_data:load")
    before = torch.random.get_rng_state()
    one, same, other = (
        models.build("own_nets:small", generator=torch.Generator().manual_seed(seed), num_classes=3, in_shape=(12,))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one[0].weight, same[0].weight) and not torch.equal(one[0].weight, other[0].weight)
    found = data.load("own_data:load")
    whole = torch.cat([found.train.x, found.validation.x])
    torch.testing.assert_close(whole.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(12), atol=1e-5, rtol=0)
    again = data.load("own_data:load")
    assert torch.equal(again.train.x, found.train.x), "loading must not change what the factory made"


def test_a_file_has_nothing_imported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*OWN, "--density", "0.1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    _own._ADMITTED.clear()
    del _sources.SOURCES["own_data:load"]
    sys.modules.pop("own_nets")
    sys.modules.pop("own_data")
    capsys.readouterr()
    for words in (["cost"], ["report"], ["shrink", "--keep", "50%"]):
        assert main([words[0], str(run), *words[1:]]) == 2
        assert "add --model own_nets:small" in capsys.readouterr().err
        assert main([words[0], str(run), *words[1:], "--model", "own_nets:wide"]) == 2
        assert "is a run of own_nets:small" in capsys.readouterr().err
    assert main(["show", str(run)]) == 0
    assert not {"own_nets", "own_data"} & set(sys.modules)
    assert main(["cost", str(run), "--model", "own_nets:small"]) == 2
    assert "add --data own_data:load" in capsys.readouterr().err


def test_a_run_goes_on_where_the_command_line_names_what_it_is_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*OWN, "--density", "0.1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    named = [str(run), "--model", "own_nets:small", "--data", "own_data:load", "--json"]
    capsys.readouterr()
    assert main(["cost", *named, "--untimed"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == 12 * 40 + 40 + 40 * 3 + 3
    assert main(["report", *named, "--seconds", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 60
    assert main(["sensitivity", *named, "--densities", "50%"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 2
    assert main(["shrink", *named, "--keep", "50%"]) == 0
    assert (run / "shrunk.safetensors").is_file()


@pytest.mark.parametrize(
    ("model", "mine", "words"),
    [
        ("own_nets:smal", "own_data:load", "own_nets has no 'smal'. Did you mean 'small'?"),
        ("no_such_nets:small", "own_data:load", "there is no module 'no_such_nets'"),
        ("own_nets:wide", "own_data:load", "own_nets:wide does not take inputs of the shape (12,)"),
        (
            "own_nets:answers",
            "own_data:load",
            "one number per class, (2, 3) for two inputs, got (2, 7)",
        ),
        ("own_nets:one", "own_data:load", "must be a function that makes an nn.Module"),
        ("own_nets:small", "own_data:three", "must return four tensors"),
        ("own_nets:small", "own_data:fractions", "train classes must be 180 of int64"),
        ("own_nets:small", "own_data:broken", "NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    model: str, mine: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", "--model", model, "--data", mine, "--steps", "3"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_options_that_it_would_not_heed_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "--init", "tn"]) == 2
    assert "one of your own draws its weights itself" in capsys.readouterr().err
    assert main([*OWN, "--on", "ray"]) == 2
    assert "leave out --on ray" in capsys.readouterr().err


def test_bench_takes_a_network_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "own_nets:small", "--input", "12", "--seconds", "0.05", "--density", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 120
    assert main(["bench", "own_nets:small"]) == 2
    assert "--input says the shape" in capsys.readouterr().err
