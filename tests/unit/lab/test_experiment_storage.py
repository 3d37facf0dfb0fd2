"""Disks that are full, folders that cannot be written or that go away: what is told, what goes on, what is left."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from secateur._base.errors import CheckpointWarning
from secateur.cli import main
from secateur.lab import data
from secateur.lab.comparing import compare
from secateur.lab.experiment import Constant, Engine, Experiment, Recipe
from secateur.lab.repeat import ArtefactError, _store, read_tensors, write_tensors
from secateur.lab.running import Progress, run

BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(8, Constant(0.05), batch=50), engine=Engine.TORCH)
RUN = ["run", "--steps", "4", "--runs", "r", "--quiet"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def full_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for files of this name; what is written first stays beside its place until it is removed."""
    replace_file = os.replace

    def replaced(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", replaced)


def test_training_goes_on_without_a_checkpoint_to_the_same_bits(
    digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(BASE, root="whole", dataset=digits)
    full_for("checkpoint.safetensors", monkeypatch)
    with pytest.warns(CheckpointWarning, match=r"checkpoint.safetensors: no space left on device\): training goes on"):
        without = run(BASE, root="full", dataset=digits, save_every=0.0)
    one, other = (found.directory / "weights.safetensors" for found in (whole, without))
    assert one.read_bytes() == other.read_bytes()
    assert sorted(os.listdir(without.directory)) == sorted(os.listdir(whole.directory))


@pytest.mark.parametrize("name", ["experiment.json", "weights.safetensors", "result.json"])
def test_a_result_that_cannot_be_written_is_a_failure(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_for(name, monkeypatch)
    assert main(RUN) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"/{name}: no space left on device. Free some space there" in told
    assert not list(Path("r").rglob("*.tmp"))
    runs = Path("r").absolute()
    monkeypatch.undo()  # the working directory, too
    assert main([*RUN, "--runs", str(runs)]) == 0  # the way out: the same command


def test_a_failed_checkpoint_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_for("checkpoint.safetensors", monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*RUN, "--save-every", "1e-9", "--engine", "torch"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("secateur: no checkpoint could be written (r/") for line in lines)


def test_a_directory_that_goes_away(digits: data.Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    def remove(news: Progress) -> None:
        if news.stage == "train":
            shutil.rmtree("r", ignore_errors=True)

    found = compare([BASE, replace(BASE, seed=1)], root="r", on_progress=remove)
    assert not found.rows and len(found.failures) == 2
    for experiment, told in found.failures.items():
        assert told.startswith(f"r/{experiment.name}/weights.safetensors: no such file or directory. Was it removed")
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors"):
        run(BASE, root="r", dataset=digits, on_progress=remove)


def test_a_file_where_a_directory_should_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r").touch()
    for words in (RUN, [*RUN, "--compare", "snip,dense"]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "Remove the file that stands where a directory should be" in told and "Traceback" not in told


def test_what_the_system_refuses_elsewhere_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "some\x1bwhere")

    monkeypatch.setattr("secateur.lab.comparing._compare.one_by_one", lambda threads: refuse)
    monkeypatch.setattr("secateur.cli.runs.asked.one_by_one", lambda threads: refuse)
    assert main(RUN) == 1
    assert capsys.readouterr().err == (
        "secateur: some\\x1bwhere: permission denied. Name one that you may use, or change its permissions.\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["methods"]) == 1
        monkeypatch.undo()
    assert capfd.readouterr().err.startswith("secateur: no space left on device.")


def test_a_flipped_bit_of_a_checkpoint_is_no_other_network(digits: data.Dataset) -> None:
    class CutError(Exception):
        pass

    def cut(news: Progress) -> None:
        if news.stage == "train" and news.step == 5:
            raise CutError

    with pytest.raises(CutError):
        run(BASE, root="r", dataset=digits, save_every=0.0, on_progress=cut)
    path = Path("r") / BASE.name / "checkpoint.safetensors"
    whole = bytearray(path.read_bytes())
    for bit in (0x40, 0x01):  # of an exponent, of a mantissa
        whole[-1 - 64] ^= bit
        path.write_bytes(whole)
        with pytest.raises(ArtefactError, match=r"checkpoint.safetensors is damaged \(its checksum is"):
            run(BASE, root="r", dataset=digits)
        whole[-1 - 64] ^= bit
    path.unlink()
    assert run(BASE, root="r", dataset=digits).facts["steps"] == 8


@pytest.mark.parametrize(
    "trail", [{"step": 8}, {"step": -1}, {"step": "x"}, {"evaluations": [{"step": 1}]}, {"curve": [5]}]
)
def test_a_checkpoint_without_a_checksum_is_not_believed(
    trail: dict[str, object], digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(news: Progress) -> None:
        if news.stage == "train" and news.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(BASE, root="r", dataset=digits, save_every=0.0, on_progress=cut)
    path = Path("r") / BASE.name / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    with monkeypatch.context() as patch:  # as an earlier version wrote it
        patch.setattr(_store, "sealed_tensors", lambda content, header: _with_header(content, header))
        write_tensors(path, tensors, about | {"trail": about["trail"] | trail})
    with pytest.raises(ArtefactError, match=r"checkpoint.safetensors is damaged \("):
        run(BASE, root="r", dataset=digits)


def _with_header(content: bytes, header: dict[str, str]) -> bytes:
    from safetensors.torch import load, save

    return save(load(content), metadata=header)
