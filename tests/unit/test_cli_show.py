"""`secateur show`: what it says of runs, mask files and checkpoints, and what it will not open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.cli import main
from secateur.lab.experiment import Constant, Experiment, Recipe
from secateur.lab.running import DivergedError, run
from secateur.masks import Masks


class Dangerous:
    """What a stranger's pickle may hold: code that runs when it is opened."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-opened"),))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def report_on(path: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["show", path, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def pruned_stack() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
    return model


def test_checkpoint_of_a_stack(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(pruned_stack().state_dict(), "model.safetensors")
    report = report_on("model.safetensors", capsys)
    assert report["kind"] == "checkpoint"
    assert (report["kept"], report["prunable"], report["density"]) == (5, 10, 0.5)
    first, second = report["layers"]
    assert (first["kept"], first["empty_rows"], first["empty_columns"], first["effective"]) == (2, 1, 1, 2)
    assert (second["kept"], second["empty_rows"], second["empty_columns"], second["effective"]) == (3, 0, 0, 1)
    assert report["effective"] == 3 and "order of the file" in report["assumed"]


def test_mask_file_with_an_empty_layer(capsys: pytest.CaptureFixture[str]) -> None:
    Masks({"a.weight": torch.ones(2, 3).bool(), "b.weight": torch.zeros(1, 2).bool()}).save("m.safetensors")
    report = report_on("m.safetensors", capsys)
    assert report["kind"] == "masks" and report["empty"] == ["b.weight"] and report["effective"] == 0
    assert main(["show", "m.safetensors"]) == 0
    page = capsys.readouterr().out
    assert "Empty layers: b.weight. Nothing passes through them." in page and "75.0 % kept" in page


def test_what_is_no_stack_has_no_effective_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"c.weight": torch.ones(4, 3, 3, 3), "f.weight": torch.ones(2, 4)}, "conv.safetensors")
    report = report_on("conv.safetensors", capsys)
    assert report["effective"] is None and report["assumed"] is None
    assert main(["show", "conv.safetensors"]) == 0
    assert "n/a" in capsys.readouterr().out


def test_a_run_that_diverged(capsys: pytest.CaptureFixture[str]) -> None:
    wild = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(30, Constant(1e30)))
    with pytest.raises(DivergedError):
        run(wild, root="r")
    (directory,) = Path("r").iterdir()
    capsys.readouterr()
    report = report_on(str(directory), capsys)
    assert report["state"] == "diverged" and "training diverged" in report["why"] and "result" not in report
    assert main(["show", str(directory)]) == 0
    assert "training diverged" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "effective"), [("lenet-300-100", True), ("gru-s", False)])
def test_run(model: str, effective: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--model", model, "--steps", "2", "--runs", "r"]) == 0
    (directory,) = Path("r").iterdir()
    capsys.readouterr()
    report = report_on(str(directory), capsys)
    assert report["kind"] == "run" and report["state"] == "finished"
    assert report["result"]["kept"] == report["kept"] and report["experiment"]["method"] == "snip"
    assert (report["effective"] is not None) == effective and report["assumed"] is None
    assert main(["show", str(directory)]) == 0
    page = capsys.readouterr().out
    assert "state: finished" in page and "after the last step" in page and f"model {model}" in page


def test_plain_pickles_are_opened_and_others_refused(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(pruned_stack().state_dict(), "plain.pt")
    torch.save({"state_dict": pruned_stack().state_dict(), "epoch": 3}, "nested.pt")
    assert report_on("plain.pt", capsys)["kept"] == report_on("nested.pt", capsys)["kept"] == 5
    torch.save({"weight": Dangerous()}, "evil.pt")
    assert main(["show", "evil.pt"]) == 1
    assert not Path("was-opened").exists()
    problem = capsys.readouterr().err
    assert "evil.pt is refused: it is a pickle" in problem and "safetensors.torch.save_file" in problem
    Path("broken.pt").write_bytes(b"PK\x03\x04 no archive")
    assert main(["show", "broken.pt"]) == 1


def test_other_files_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.safetensors").write_text("hello")
    assert main(["show", "text.safetensors"]) == 1
    assert "is no safetensors file, or it is damaged" in capsys.readouterr().err
    save_file({"steps": torch.arange(3)}, "ints.safetensors")
    assert main(["show", "ints.safetensors"]) == 1
    assert "holds no weights" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["show", "empty"]) == 2
    assert "is not a run's directory" in capsys.readouterr().err
    assert main(["show", "ints.safetensor"]) == 2
    assert "Did you mean 'ints.safetensors'?" in capsys.readouterr().err


def test_weights_under_a_key_are_found_and_the_key_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    weights = pruned_stack().state_dict()
    others = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}, "rng": torch.ones(3)}
    for name, content, key in (
        ("model", {"model": weights, **others}, "model"),
        ("deep", {"trainer": {"net": weights}, **others}, "trainer.net"),
        ("two", {"ema": {"w": torch.ones(2, 2)}, "model_state_dict": weights}, "model_state_dict"),
        ("odd", {"whatever": weights, "loss": torch.ones(())}, "whatever"),
    ):
        torch.save(content, f"{name}.pt")
        report = report_on(f"{name}.pt", capsys)
        assert (report["key"], report["kept"]) == (key, 5)
    torch.save({"a": weights, "b": weights | {"x": torch.ones(2, 2)}}, "several.pt")
    assert main(["show", "several.pt"]) == 1
    assert "several.pt holds weights under several keys: 'a', 'b'. Save one of them alone." in capsys.readouterr().err
    assert main(["show", "model.pt"]) == 0
    assert "the weights are under the key 'model'" in capsys.readouterr().out


def test_old_pickles_parameters_and_small_floats(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(pruned_stack().state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    torch.save(pruned_stack().state_dict(), "checkpoint.pth.tar")
    assert report_on("old.pth", capsys)["kept"] == report_on("checkpoint.pth.tar", capsys)["kept"] == 5
    small = {"w": torch.tensor([[1.0, 0.0], [-0.0, 2.0]])}
    kinds = {str(index): small["w"].to(kind) for index, kind in enumerate((torch.float8_e4m3fn, torch.bfloat16))}
    torch.save({**kinds, "p": nn.Parameter(small["w"])}, "kinds.pt")
    save_file(kinds, "kinds.safetensors")
    assert [layer["kept"] for layer in report_on("kinds.pt", capsys)["layers"]] == [2, 2, 2]
    assert [layer["kept"] for layer in report_on("kinds.safetensors", capsys)["layers"]] == [2, 2]


def test_a_tied_weight_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.eye(3)
    torch.save({"embedding": weight, "head": weight, "turned": weight.T}, "tied.pt")
    assert [layer["name"] for layer in report_on("tied.pt", capsys)["layers"]] == ["embedding", "turned"]
