"""`secateur compress`, `unpack` and `inspect`: a checkpoint there and back, and wrong words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur as sc
from secateur.cli import main


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 4))
    sc.prune(net, sc.methods.magnitude(0.3))
    found = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(found, "w.safetensors")
    return found


def test_a_checkpoint_there_and_back(state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "w.safetensors"]) == 0
    assert "Written to w.sct" in capsys.readouterr().out
    assert main(["unpack", "w.sct", "--out", "back.safetensors"]) == 0
    back = load_file("back.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    capsys.readouterr()
    assert main(["inspect", "w.sct", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (
        said["bytes"] == Path("w.sct").stat().st_size == said["header"] + sum(row["bytes"] for row in said["tensors"])
    )
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 4))
    _, masks, _ = sc.load("w.sct", net)
    assert masks.density == pytest.approx(0.3, abs=0.01) and torch.equal(net[3].weight, state["3.weight"])


@pytest.mark.parametrize("way", ["--bits 3", "--bits 3 --density-init", "--int8", "--bf16", "--huffman"])
def test_ways_to_lose_a_little(way: str, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "w.safetensors", *way.split(), "--out", "s", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    lossy = "--huffman" not in way
    back = sc.load("s").state
    for name in ("0.weight", "3.weight"):
        assert torch.equal(back[name] == 0, state[name] == 0) or lossy
        assert torch.equal(back[name], state[name]) != lossy
        assert (back[name] - state[name]).abs().max() < 0.2 * state[name].abs().max()
    assert torch.equal(back["0.bias"], state["0.bias"])
    assert said["kind"] == "masked" and (not lossy or any(row["error"] for row in said["tensors"]))


def test_wrong_words(state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["compress", "none"], "no file of weights"),
        (["compress", "w.safetensors", "--density-init"], "goes with --bits"),
        (["compress", "w.safetensors", "--out", "none/s"], "no directory"),
        (["unpack", "none", "--out", "x"], "no file at"),
        (["unpack", "w.safetensors", "--out", "none/x"], "no directory"),
        (["inspect", "none"], "no file at"),
    ):
        assert main(words) == 2 and sentence in capsys.readouterr().err
    assert main(["inspect", "w.safetensors"]) == 1 and "secateur.compress writes one" in capsys.readouterr().err
    assert main(["compress", "w.safetensors", "--bits", "20"]) == 1 and "from 1 to 16" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["w.safetensors"]
