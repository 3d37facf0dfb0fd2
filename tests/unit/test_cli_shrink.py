"""`secateur cost`, `shrink` and `explain`: on networks of one's own, of the lab and of runs; and wrong words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.cli import main

OWN = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))

def words():
    return nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 2))

def broken():
    raise ValueError("no such device")

def number():
    return 3
"""
INPUT = ["--input", "3x6x6"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_models.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)


def fresh() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def a_run() -> Path:
    assert main(["run", "--data", "digits", "--density", "0.1", "--steps", "3", "--quiet", "--json"]) == 0
    return next(Path("runs").iterdir())


def test_cost_of_a_network_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "cost", "own_models:small", *INPUT, "--batch", "2", "--seconds", "0.02")
    assert (found["format"], found["batch"]) == ("secateur.cost/1", 2)
    assert found["macs"] == 2 * (16 * 8 * 27 + 8 * 16 * 4)
    assert found["params"] == sum(p.numel() for p in fresh().parameters())
    assert found["latency"]["seconds"] > 0 and len(found["layers"]) == 5
    assert main(["cost", "own_models:small", *INPUT, "--untimed"]) == 0
    out = capsys.readouterr().out
    assert "Conv2d" in out and "total" in out and "One forward" not in out and "2014" in out


def test_cost_of_the_labs_and_of_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "cost", "lenet-5-caffe", "--untimed")["macs"] == 2_293_000
    assert asked(capsys, "cost", "mlp-30-20-7", "--untimed")["macs"] == 740
    assert asked(capsys, "cost", "own_models:words", "--input", "int:3", "--untimed")["macs"] == 24 * 6 + 12


def test_a_checkpoint_becomes_a_file_that_load_opens(capsys: pytest.CaptureFixture[str]) -> None:
    model = fresh()
    save_file(model.state_dict(), "weights.safetensors")
    words = ["shrink", "weights.safetensors", "--model", "own_models:small", *INPUT]
    found = asked(capsys, *words, "--keep", "params=60%", "--keep", "units=0.8", "--multiples", "2")

    assert found["file"] == "weights.shrunk.safetensors" and found["format"] == "secateur.shrink/1"
    assert found["after"]["params"] <= 0.6 * found["before"]["params"]
    assert all(each["outputs"] <= 1e-10 for each in found["equal"])
    small, _, manifest = sc.load(found["file"], fresh())
    assert sum(p.numel() for p in small.parameters()) == found["after"]["params"]
    (group,) = found["groups"]
    assert (group["units"], group["kept"]) == (8, small[0].out_channels) and group["kept"] % 2 == 0
    assert torch.equal(small[0].weight, model[0].weight[list(manifest.kept["0.weight"][0])])  # pyright: ignore[reportIndexIssue]
    assert load_file("weights.safetensors").keys() == model.state_dict().keys()

    told = asked(capsys, "explain", found["file"], "channel", "0:3")
    assert told["said"] == manifest.why("0", 3).splitlines()


def test_a_run_by_its_name_and_what_its_masks_leave(capsys: pytest.CaptureFixture[str]) -> None:
    directory = a_run()
    capsys.readouterr()
    assert main(["explain", directory.name, "channel", "fc1:3"]) == 0
    assert "of its 64 weights: rank" in capsys.readouterr().out
    assert main(["shrink", directory.name]) == 0
    out = capsys.readouterr().out
    assert "units closed" in out and "shrunk.safetensors" in out
    by_masks = sc.load(directory / "shrunk.safetensors")
    assert by_masks.kind == "masked" and by_masks.masks is not None and by_masks.manifest is not None
    assert main(["explain", str(directory), "channel", "fc1:3"]) == 0
    assert capsys.readouterr().out.startswith("fc1 3 ")

    assert main(["shrink", str(directory), "--keep", "50%", "--of", "macs", "--timed", "--out", "half"]) == 0
    assert " ms at best: " in (out := capsys.readouterr().out) and "equal: eval" in out
    assert main(["show", "half", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "checkpoint" and shown["layers"][0]["shape"][0] < 300


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["cost", "own_models:smal", *INPUT], 2, "own_models has no 'smal'. Did you mean 'small'?"),
        (["cost", "own_modls:small", *INPUT], 2, "there is no module 'own_modls' here or among what is installed"),
        (["cost", ":small", *INPUT], 2, "is written package.module:factory, got ':small'"),
        (["cost", "own_models:small"], 2, "--input says the shape of one example, as 3x224x224"),
        (["cost", "own_models:small", "--input", "3y6"], 2, "expected the shape of one example, as 3x224x224"),
        (["cost", "own_models:small", "--input", "4x6x6"], 1, "to have 3 channels, but got 4 channels"),
        (["cost", "own_models:broken", *INPUT], 1, "own_models:broken raised ValueError: no such device"),
        (["cost", "own_models:number", *INPUT], 1, "own_models:number must make an nn.Module, got a int"),
        (["cost", "lenet-300"], 2, "Did you mean 'lenet-300-100'?"),
        (["cost", "."], 2, "is not a run's directory"),
        (["shrink", "w.safetensors"], 2, "--model says whose weights these are"),
        (["shrink", "none.safetensors"], 2, "there is nothing at none.safetensors"),
        (["shrink", "none.safetensors", "--model", "own_models:small"], 2, "there is no file of weights at"),
        (["shrink", "w.pt", "--model", "own_models:small", *INPUT], 1, "is a pickle, which may run a stranger's code"),
        (["shrink", "w.safetensors", "--model", "lenet-5-caffe"], 1, "holds weights of another model"),
        (["shrink", "small", "--model", "own_models:small", *INPUT], 1, "is shrunk already"),
        (["shrink", "own_models.py", "--model", "own_models:small", *INPUT], 1, "is no safetensors file"),
        (["shrink", "own_models:small", *INPUT, "--keep", "50"], 2, "Did you mean density=0.5 (keep 50 %)?"),
        (["shrink", "own_models:small", *INPUT, "--keep", "mac=50%"], 2, "Did you mean 'macs'?"),
        (["shrink", "own_models:small", *INPUT, "--keep", "50%", "--of", "mac"], 2, "Did you mean 'macs'?"),
        (["shrink", "own_models:small", *INPUT, "--keep", "macs=50%", "--of", "ms"], 2, "--of ms says of what"),
        (["shrink", "own_models:small", *INPUT, "--keep", "50%", "--keep", "units=50%"], 2, "says twice how much"),
        (["shrink", "own_models:small", *INPUT, "--of", "macs"], 2, "go with --keep"),
        (
            ["shrink", "own_models:small", *INPUT],
            2,
            "--keep says how much stays: no weight of own_models:small is zero",
        ),
        (["shrink", "own_models:small", *INPUT, "--keep", "50%", "--only", "9*"], 1, "nothing in the model matches"),
        (["shrink", "own_models:small", *INPUT, "--keep", "1%", "--of", "params"], 1, "cannot be reached"),
        (["shrink", "own_models:small", *INPUT, "--keep", "50%", "--out", "no/x"], 2, "there is no directory no"),
        (["explain", "small", "channel", "0"], 2, "expected LAYER:INDEX, as layer3.conv1:37, got '0'"),
        (["explain", "small", "channel", "0:8"], 1, "`index` must be in [0, 8) for '0', got 8"),
        (["explain", "small", "channel", "2:0"], 1, "nothing is known of '2'"),
        (["explain", "small", "filter", "0:0"], 2, "channel must be one of channel"),
        (["explain", "none", "channel", "0:0"], 2, "there is nothing at none"),
        (["explain", "w.safetensors", "channel", "0:0"], 1, "not one that secateur.save wrote"),
    ],
)
def test_wrong_words(words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(fresh().state_dict(), "w.safetensors")
    Path("w.pt").write_bytes(b"")
    sc.shrink(fresh(), 0.5, torch.zeros(2, 3, 6, 6), draws=0, modes=("eval",)).save("small")
    before = sorted(path.name for path in Path().iterdir() if path.is_file())
    assert main(words) == status
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == before


def test_a_method_ranks_the_units_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run()
    capsys.readouterr()
    found = asked(capsys, "shrink", str(run), "--keep", "50%", "--method", "nisp", "--out", "small.safetensors")
    assert found["after"]["params"] < found["before"]["params"]
    opened = sc.load("small.safetensors")
    assert opened.manifest is not None and any("fc1.weight" in str(group) for group in opened.manifest.groups)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "nips", "--keep", "50%"], "--method is none of those with a density, got 'nips'"),
        (["--method", "nisp"], "go with --keep"),
        (["--method", "nisp", "--keep", "macs=50%"], "goes with one --keep of units"),
        (["--method", "nisp", "--keep", "50%", "--multiples", "8"], "goes with one --keep of units"),
        (["--method", "rigl", "--keep", "50%"], "wants more than a density"),
        (["--method", "snip", "--keep", "50%"], "shrink takes methods that cut filters"),
        (["--method", "nisp", "--keep", "50%"], "needs `batches`"),
    ],
)
def test_methods_that_do_not_go_are_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shrink", "own_models:small", *INPUT, "--out", "small.safetensors", *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not Path("small.safetensors").exists()
