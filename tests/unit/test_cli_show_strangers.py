"""`secateur show` on files from strangers: one sentence, exit status 1, and no more memory than the file is worth."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.cli import main
from secateur.cli.commands.models import _opened
from secateur.lab.experiment import Constant, Experiment, Recipe
from secateur.masks import Masks

EXPERIMENT = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(30, Constant(0.1)))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(path: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that `secateur show` ends with."""
    assert main(["show", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("secateur: ") and captured.err.count("\n") == 1
    return captured.err


def safe(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def mask_file(shapes: str, kind: str = "U8", size: int = 1, bytes_: int = 1) -> bytes:
    about = {"format": "secateur.masks", "version": "1", "bits": "big", "shapes": shapes}
    return safe(
        {"__metadata__": about, "w": {"dtype": kind, "shape": [size], "data_offsets": [0, bytes_]}}, b"\0" * bytes_
    )


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def bomb(size: int) -> bytes:
    """An archive as torch.save writes it, but compressed: 1000 times as large when it is opened."""
    with zipfile.ZipFile(io.BytesIO(pickled({"w": torch.zeros(4, 4)}))) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content + b"\0" * size if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def overlapping() -> bytes:
    """An archive that names the bytes of one member again and again."""
    whole = pickled({"w": torch.zeros(64, 64)})
    end = whole.rindex(b"PK\5\6")
    size, start = struct.unpack("<2L", whole[end + 12 : end + 20])
    entries = whole[start : start + size]
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 24, 24, 2 * len(entries), start, 0)
    return whole[:start] + entries * 2 + last


def repacked(whole: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of torch.save with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as plain, zipfile.ZipFile(buffer, "w") as archive:
        for name in plain.namelist():
            content = plain.read(name)
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def calls(name: str, argument: int) -> bytes:
    """A file whose pickle calls a function of one number."""
    number = b"\x8a\x08" + struct.pack("<q", argument)
    body = b"\x80\x02c" + name.replace(".", "\n").encode() + b"\n" + number + b"\x85R."
    return repacked(pickled({"w": torch.zeros(4, 4)}), lambda _: body)


STRANGERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep.safetensors": (lambda: mask_file("[" * 100_000), "its header holds no table of shapes"),
    "zeros.safetensors": (lambda: mask_file(f'{{"w": [0, {1 << 70}]}}', size=0, bytes_=0), "has the shape (0, "),
    "many.safetensors": (lambda: mask_file(json.dumps({"w": [1 << 60] * 10_000})), "has the shape of 10000 dimensions"),
    "huge.safetensors": (lambda: mask_file('{"w": [1000000, 1000000]}'), "needs 125000000000 bytes, got uint8"),
    "bf16.safetensors": (lambda: mask_file('{"w": [8]}', "BF16", 1, 2), "needs 1 bytes, got BF16"),
    "f8.safetensors": (lambda: mask_file('{"w": [8]}', "F8_E4M3"), "needs 1 bytes, got F8_E4M3"),
    "claims.safetensors": (
        lambda: safe({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}),
        "is no safetensors file, or it is damaged",
    ),
    "names.safetensors": (lambda: mask_file('{"\\u001b[2J": [8]}'), r"'\x1b[2J' is missing from its header"),
    "empty.pt": (lambda: b"", "empty.pt is not a checkpoint, or it is damaged"),
    "text.pt": (lambda: b"hello", "text.pt is not a checkpoint, or it is damaged"),
    "zip.pt": (lambda: b"PK\x03\x04 no archive", "zip.pt is not a checkpoint, or it is damaged"),
    "list.pt": (lambda: pickled([1, 2]), "holds no weights"),
    "number.pt": (lambda: pickled({"state_dict": 5}), "holds no weights"),
    "sparse.pt": (lambda: pickled({"w": torch.eye(2).to_sparse()}), "it names torch._utils._rebuild_sparse_tensor"),
    "meta.pt": (
        lambda: pickled({"w": torch.empty(2, 2, device="meta")}),
        "it names torch._utils._rebuild_meta_tensor_no_storage",
    ),
    "expanded.pt": (
        lambda: pickled({"w": torch.zeros(1).expand(100_000, 100_000)}),
        "its tensors claim 40,000,000,000 bytes, and the file has 1,",
    ),
    "zeros.pt": (lambda: calls("__builtin__.bytearray", 10**11), "it names __builtin__.bytearray"),
    "bomb.pt": (lambda: bomb(10_000_000), "an archive with compressed members that claims 10,00"),
    "overlap.pt": (overlapping, "an archive whose members overlap"),
    "trailer.pt": (lambda: pickled({"w": torch.zeros(2, 2)}) + b"more", "an archive that ends in an odd way"),
    "before.pt": (lambda: b"PK\x03\x04" + pickled({"w": torch.zeros(2, 2)}), "an archive that ends in an odd way"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = STRANGERS[name]
    Path(name).write_bytes(make())
    assert message in refusal(name, capsys)


def test_what_is_opened_is_what_was_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bomb nothing is handed to torch."""
    Path("bomb.pt").write_bytes(bomb(1_000_000))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    assert main(["show", "bomb.pt"]) == 1


def test_many_views_of_one_memory_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    memory = torch.zeros(1 << 20)
    views = {str(index): memory[index:][: 1 << 19].view(512, 1024) for index in range(200)}
    Path("views.pt").write_bytes(pickled(views))
    assert "its tensors claim 419,430,400 bytes" in refusal("views.pt", capsys)


def test_mappings_that_hold_one_another_are_looked_through_once() -> None:
    inner: dict[str, object] = {"x": 1}
    middle = dict.fromkeys(map(str, range(2_000)), inner)
    assert _opened._state_dict(Path("p"), dict.fromkeys(map(str, range(2_000)), middle)) == ("", {})


def test_no_method_of_a_stranger_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    content: Any = OrderedDict(w=torch.eye(2))
    content.xtems = 5
    Path("items.pt").write_bytes(repacked(pickled(content), lambda pickle: pickle.replace(b"xtems", b"items")))
    loaded = torch.load("items.pt", weights_only=True)
    assert loaded.items == 5 and main(["show", "items.pt"]) == 0


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_pipes_and_devices_are_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.safetensors")
    assert "pipe.safetensors is no file" in refusal("pipe.safetensors", capsys)
    assert "zero is no file" in refusal("/dev/zero", capsys)


def test_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;owned\x07\x1b[2J\x9bw\nforged"
    Masks({name: torch.ones(4, 4) > 0, "e\x1b": torch.zeros(1, 4) > 0}).save("esc\x1b.safetensors")
    assert main(["show", "esc\x1b.safetensors"]) == 0
    page = capsys.readouterr().out
    assert "\x1b" not in page and "\x07" not in page and "\nforged" not in page
    assert r"\x1b]0;owned\x07\x1b[2J\x9bw\nforged" in page and r"Empty layers: e\x1b." in page
    assert main(["show", "no\x1bthing"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def a_run(**changes: object) -> Path:
    folder = Path("run")
    folder.mkdir(exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(EXPERIMENT.to_json() | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 5}, "`model` of a stored experiment cannot be 5"),
        ({"recipe": {"kind": "recipe", "steps": "x", "rate": {"kind": "constant", "value": 1}}}, "`steps` of a stored"),
        ({"recipe": {"kind": "recipe", "steps": 5}}, "a stored recipe needs the field 'rate', which is missing"),
        ({"recipe": 5}, "`recipe` of a stored experiment cannot be 5"),
        ({"density": "half"}, "`density` of a stored experiment cannot be 'half'"),
        ({"density": True}, "`density` of a stored experiment cannot be True"),
        ({"options": 5}, "no stored experiment"),
        ({"options": [["a", [1]]]}, "`options` of a stored experiment cannot be"),
        ({"sanity": "x"}, "`sanity` must be one of"),
        ({"sanity": ["x"]}, ""),
        ({"kind": "recipe"}, "a stored recipe has no field 'model'"),
        ({"seed": -1}, "`seed` must not be negative"),
    ],
)
def test_an_experiment_of_a_stranger(
    changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(a_run(**changes), capsys)
    assert "experiment.json is damaged (" in told and message in told


@pytest.mark.parametrize("content", ["[]", "5", "null", "{}", "[" * 100_000, '{"kind": "experiment", "seed": NaN}'])
def test_a_record_that_is_none(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("experiment.json", "result.json"):
        folder = a_run()
        (folder / name).write_text(content)
        assert f"{name} is damaged (" in refusal(folder, capsys)
        (folder / name).unlink()


def test_a_network_that_no_memory_holds_is_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("mlp-64-1000000000-10", "wrn-1000000000-1", "nothing-known"):
        folder = a_run(model=model)
        Masks({"w": torch.ones(2, 2) > 0}).save(folder / "masks.safetensors")
        assert main(["show", str(folder)]) == 0
        assert f"model {model}" in capsys.readouterr().out


def test_an_experiment_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    whole = replace(EXPERIMENT, options=(("rounds", 3), ("keep", True)), block=(4, 1), validation=0.25)
    (a_run() / "experiment.json").write_text(json.dumps(whole.to_json()))
    assert Experiment.from_json(whole.to_json()) == whole
    assert main(["show", "run"]) == 0


def test_masks_without_weights_take_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    Masks({"a": torch.ones(0, 1 << 40, dtype=torch.bool), "b": torch.ones(1 << 40, 0).bool()}).save("m.safetensors")
    assert main(["show", "m.safetensors"]) == 0
    assert "0 of 0 weights" in capsys.readouterr().out


def test_weights_are_read_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    save_file({str(index): torch.ones(4, 4) for index in range(3)}, "w.safetensors")
    seen: list[Tensor] = []
    whole = _opened._not_zero

    def look(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return whole(tensor)

    monkeypatch.setattr(_opened, "_not_zero", look)
    assert list(_opened.weights_in(Path("w.safetensors"))[1]) == ["0", "1", "2"] and len(seen) == 3


def test_a_module_is_more_than_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    Path("module.pt").write_bytes(pickled(nn.Linear(2, 2)))
    assert "module.pt is refused: it is a pickle that holds more than plain tensors" in refusal("module.pt", capsys)
