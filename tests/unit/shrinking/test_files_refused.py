"""Files of models that are refused: damaged, foreign, newer, or of another model; and nothing is changed then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

import attention_nets
import secateur as sc
from secateur import LeakError, Masks, SecateurError
from secateur._base.files import sealed_tensors

CASES = attention_nets.CASES
RECORD: dict[str, Any] = {"group": "g", "total": 1, "kept": "0", "scores": [], "causes": {}}
MANIFEST: dict[str, Any] = {
    **{key: {} for key in ("shapes", "kept", "numbers", "rescaled", "epsilons", "places")},
    **{key: [] for key in ("groups", "added", "reasons")},
}
QUICK: dict[str, Any] = {"draws": 0, "modes": ("eval",)}


def net(seed: int = 0, width: int = 6) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: net(width=7),
            r"'0.weight' .*have the shape \(6, 3\) .*, got \(7, 3\)",
        ),
        (lambda: nn.Linear(3, 2), "`model` has 'weight', which the file of a .*Sequential does not hold"),
        (lambda: net()[:4], "`model` has no '4.bias', which the file of a"),
        (lambda: net().half(), "'0.weight' is torch.float16, which cannot hold the file's torch.float32"),
        (lambda: sc.shrink(net(), 0.5, torch.zeros(2, 3), **QUICK).model, r"'0.weight' .*\(6, 3\)|lacks indices"),
    ],
)
def test_another_model_is_refused_and_stays_as_it_is(model: Any, message: str, tmp_path: Path) -> None:
    sc.shrink(net(), 0.5, torch.zeros(2, 3), **QUICK).save(tmp_path / "net")
    fresh = model()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(SecateurError, match=message):
        sc.load(tmp_path / "net", fresh)
    after = fresh.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_model_whose_code_holds_other_numbers_is_refused(tmp_path: Path) -> None:
    model, inputs = CASES["gpt"]()
    shrunk = sc.shrink(model, 0.5, inputs, **QUICK)
    shrunk.save(tmp_path / "net")
    fresh, _ = CASES["gpt"]()
    path, (old, _) = next(iter(shrunk.manifest.numbers.items()))
    holder: Any = fresh
    for part in path.split(".")[:-1]:
        holder = getattr(holder, part)
    setattr(holder, path.rpartition(".")[2], old + 1)
    with pytest.raises(SecateurError, match=f"{path} must be {old}, as in the model that was cut, got {old + 1}"):
        sc.load(tmp_path / "net", fresh)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(LeakError, match=r"18 weights of '0.weight' are not zero, and their mask says"):
        sc.save(net(), Masks({"0.weight": torch.zeros(6, 3, dtype=torch.bool)}), tmp_path / "net")
    with pytest.raises(sc.MaskError, match="the model has no parameter 'x'"):
        sc.save(net(), Masks({"x": torch.ones(1, dtype=torch.bool)}), tmp_path / "net")
    with pytest.raises(SecateurError, match=r"must have values to be saved, got '0.weight' on meta"):
        sc.save(sc.coupling.on_meta(net()), None, tmp_path / "net")
    with pytest.raises(FileNotFoundError):
        sc.save(net(), None, tmp_path / "none" / "net")
    assert not list(tmp_path.iterdir())


def test_into_wants_masks_and_a_model(tmp_path: Path) -> None:
    sc.save(net(), None, tmp_path / "net")
    with pytest.raises(SecateurError, match=r"`into` wants masks, and .* has none: it holds a dense model"):
        sc.load(tmp_path / "net", net(), into=sc.hold)
    sc.save(nn.Linear(2, 2), Masks({"weight": torch.ones(2, 2, dtype=torch.bool)}), tmp_path / "net")
    with pytest.raises(SecateurError, match="`into` makes something of a model: pass one"):
        sc.load(tmp_path / "net", into=sc.hold)


def test_foreign_and_newer_files(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with pytest.raises(FileNotFoundError, match="there is no file of a model at"):
        sc.load(path)
    with pytest.raises(SecateurError, match=r"is no file: expected one that secateur\.save wrote"):
        sc.load(tmp_path)
    path.write_bytes(b"no such thing")
    with pytest.raises(SecateurError, match="is not a model's file, or it is damaged"):
        sc.load(path)
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(SecateurError, match=r"but not one that secateur\.save wrote: safetensors.torch.load_file"):
        sc.load(path)
    Masks({"x": torch.ones(3, dtype=torch.bool)}).save(path)
    with pytest.raises(SecateurError, match=r"holds masks and no model: secateur\.Masks\.load reads it"):
        sc.load(path)
    save_file({"x": torch.zeros(3)}, path, {"format": "secateur.model", "version": "2", "about": "{}"})
    with pytest.raises(SecateurError, match="of version '2', and this Secateur reads version '1': update Secateur"):
        sc.load(path)
    save_file({"x": torch.zeros(3)}, path, {"format": "secateur.model", "version": "1", "about": "{}"})
    with pytest.raises(SecateurError, match="is damaged: it has no checksum"):
        sc.load(path)


def test_every_flipped_byte_and_every_truncation_is_found(tmp_path: Path) -> None:
    sc.shrink(net(), 0.5, torch.zeros(2, 3), **QUICK).save(tmp_path / "good")
    good, path = (tmp_path / "good").read_bytes(), tmp_path / "net"
    own = torch.Generator().manual_seed(0)
    for place in torch.randperm(len(good), generator=own)[:120].tolist():
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(SecateurError):
            sc.load(path, net(1))
    for length in [0, 1, 7, 8, 9, len(good) // 2, len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(SecateurError):
            sc.load(path, net(1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "odd", "does not say what it holds"),
        ("packed", {"0.weight": [6, 3]}, "'0.weight#bits' is missing"),
        ("packed", [], "holds no table `packed`"),
        ("tied", {"z": "nowhere"}, "'z' is tied to nothing"),
        ("manifest", {"kept": 3}, "`groups` of its manifest is no list"),
        ("kind", "masked", "does not say of all masks whose they are"),
        ("manifest", {"groups": [RECORD | {"total": 1 << 30, "kept": "0-1000000000"}]}, "is no range"),
        ("manifest", MANIFEST | {"kept": {"0.weight": {"0": "0-9999999"}}}, "is no range"),
        ("manifest", MANIFEST | {"groups": [RECORD], "places": {"x": {"0": [[0, 1 << 40, 0, 0, 1, -1]]}}}, "stretch"),
    ],
)
def test_headers_that_lie(key: str, value: Any, message: str, tmp_path: Path) -> None:
    about = {"kind": "dense", "model": "x", "tied": {}, "packed": {}, "manifest": None} | {key: value}
    header = {"format": "secateur.model", "version": "1", "about": json.dumps(about)}
    (tmp_path / "net").write_bytes(sealed_tensors(save({"0.weight": torch.zeros(18)}), header))
    with pytest.raises(SecateurError, match=f"is damaged: .*{message}"):
        sc.load(tmp_path / "net")
