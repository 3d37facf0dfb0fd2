"""Language models pruned on disk, a block in memory at a time: the bits of the way in memory, after interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from language_cases import BATCHES, CONFIGS, METHODS, saved
from secateur import Masks, SecateurError, methods, prune, scope
from secateur.axes import Method
from secateur.lab import language
from secateur.lab.language import _sweep
from secateur.pruning.blocks import found_in


def in_memory(source: Path, method: Method) -> tuple[dict[str, Tensor], Masks]:
    model = language.opened(source)
    masks = prune(model, method, BATCHES, blocks=found_in(model))
    return dict(model.state_dict()), masks


def assert_same(folder: Path, expected: tuple[dict[str, Tensor], Masks]) -> None:
    found = language.opened(folder).state_dict()
    assert found.keys() == expected[0].keys()
    assert all(torch.equal(value, expected[0][name]) for name, value in found.items())
    expected[1].save(folder.parent / "expected.safetensors")
    own = (folder / "secateur_masks.safetensors").read_bytes()
    assert own == (folder.parent / "expected.safetensors").read_bytes()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", METHODS)
def test_the_bits_are_those_of_the_way_in_memory(kind: str, name: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path, torch.bfloat16 if name == "sparsegpt" else torch.float32)
    found = language.prune_folder(source, METHODS[name], BATCHES, tmp_path / "out")
    expected = in_memory(source, METHODS[name])
    assert (found.kept, found.prunable, found.resumed_at) == (expected[1].kept, expected[1].numel, 0)
    assert_same(tmp_path / "out", expected)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert set(index["weight_map"].values()) <= files and len(set(index["weight_map"].values())) == 4
    assert {"config.json", "generation_config.json"} <= files
    assert not any(word in file for file in files for word in ("state", "masks-", "lock", "sweep"))
    assert not (tmp_path / "out.partial").exists()


def test_a_single_file_and_a_small_type_of_states_do_as_well(tmp_path: Path) -> None:
    source = saved("llama", tmp_path, torch.bfloat16, shard="1GB")
    assert not (source / "model.safetensors.index.json").exists()
    language.prune_folder(source, methods.magnitude(0.3, scope=scope.layerwise()), BATCHES, tmp_path / "out")
    assert_same(tmp_path / "out", in_memory(source, methods.magnitude(0.3, scope=scope.layerwise())))


def test_one_block_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    made: list[Any] = []

    class Watched(_sweep.Skeleton):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)
            assert all(p.is_meta for p in self.model.parameters())

    def look(*given: Any, **named: Any) -> Masks:
        seen.append({name for name, p in made[0].model.named_parameters() if not p.is_meta})
        return prune(*given, **named)

    monkeypatch.setattr(_sweep, "Skeleton", Watched)
    monkeypatch.setattr(_sweep, "prune", look)
    language.prune_folder(saved("llama", tmp_path), METHODS["sparsegpt"], BATCHES, tmp_path / "out")
    assert [{name.split(".")[2] for name in names} for names in seen] == [{"0"}, {"1"}, {"2"}]
    assert all(name.startswith("model.layers.") for names in seen for name in names)
    assert all(p.is_meta for p in made[0].model.parameters())


# --- interrupted ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had ended here."""


def interrupted(source: Path, to: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Sweep until file number `at` is written half; whether it came to that."""
    count = [0]

    def fails(path: Path, *given: Any) -> None:
        count[0] += 1
        if count[0] > at:
            path.with_name(f".{path.name}.99.tmp").write_bytes(b"half")  # what a killed process leaves
            raise Killed
        real(path, *given)

    real = _sweep.write
    with monkeypatch.context() as patch:
        patch.setattr(_sweep, "write", fails)
        try:
            language.prune_folder(source, METHODS["sparsegpt"], BATCHES, to)
        except Killed:
            return True
    return False


def test_a_sweep_goes_on_wherever_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, blocks = saved("gpt2", tmp_path), 3
    expected = in_memory(source, METHODS["sparsegpt"])
    # States of three batches and the rest; then for each block three states (not behind the last) and its shard.
    reached = {0: 0, 2: 0, 3: 0, 4: 0, 6: 0, 7: 0, 8: 1, 11: 1, 12: 2}
    for at, block in reached.items():
        to = tmp_path / f"out{at}"
        assert interrupted(source, to, at, monkeypatch) and not to.exists()
        seen: list[int] = []
        found = language.prune_folder(
            source, METHODS["sparsegpt"], BATCHES, to, watch=lambda number, count, seen=seen: seen.append(number)
        )
        assert seen == list(range(block, blocks)) and found.resumed_at == block
        assert found.kept == expected[1].kept
        assert_same(to, expected)
        assert not [path for path in to.iterdir() if path.name.endswith(".tmp")]
    assert not interrupted(source, tmp_path / "whole", 13, monkeypatch)


def test_a_killed_process_and_one_that_ends_between_blocks(tmp_path: Path) -> None:
    source = saved("opt", tmp_path)
    torch.save([batch["input_ids"] for batch in BATCHES], tmp_path / "ids.pt")
    script = (
        "import os, signal, sys, torch\n"
        "from secateur import methods\n"
        "from secateur.lab import language\n"
        "torch.set_num_threads(1)\n"
        "batches = [{'input_ids': ids} for ids in torch.load(sys.argv[1], weights_only=True)]\n"
        "stop = lambda number, count: number == 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "language.prune_folder(sys.argv[2], methods.sparsegpt(0.5), batches, sys.argv[3], watch=stop)\n"
    )
    given = [sys.executable, "-c", script, str(tmp_path / "ids.pt"), str(source), str(tmp_path / "out")]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "out.partial" / "sweep.json").is_file() and not (tmp_path / "out").exists()
    found = language.prune_folder(source, methods.sparsegpt(0.5), BATCHES, tmp_path / "out")
    assert found.resumed_at == 2
    assert_same(tmp_path / "out", in_memory(source, methods.sparsegpt(0.5)))


def test_what_is_whole_but_not_yet_in_its_place_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, to = saved("llama", tmp_path), tmp_path / "out"

    def killed(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_sweep, "_finish", killed)
        with pytest.raises(Killed):
            language.prune_folder(source, METHODS["wanda 2:4"], BATCHES, to)
    found = language.prune_folder(source, METHODS["wanda 2:4"], BATCHES, to)
    assert found.resumed_at == found.blocks == 3 and found.kept * 2 == found.prunable
    assert_same(to, in_memory(source, METHODS["wanda 2:4"]))


def test_another_sweep_is_not_mixed_with_one_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, to = saved("gpt2", tmp_path), tmp_path / "out"
    assert interrupted(source, to, 8, monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "out.partial").rglob("*"))}
    for method, batches, said in (
        (methods.sparsegpt(0.6), BATCHES, "the method were others"),
        (methods.sparsegpt(0.5, damping=0.1), BATCHES, "the method were others"),
        (METHODS["sparsegpt"], BATCHES[:2], "the calibration data"),
    ):
        with pytest.raises(SecateurError, match=f"{said}.*Delete .*out.partial to begin anew"):
            language.prune_folder(source, method, batches, to)
    (source / "config.json").touch()
    shard = sorted(source.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes())
    with pytest.raises(SecateurError, match="the model's files were others"):
        language.prune_folder(source, METHODS["sparsegpt"], BATCHES, to)
    after = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "out.partial").rglob("*"))}
    assert before == after


def test_damaged_pieces_of_a_sweep_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, to = saved("gpt2", tmp_path), tmp_path / "out"
    assert interrupted(source, to, 8, monkeypatch)
    journal, state = tmp_path / "out.partial" / "sweep.json", tmp_path / "out.partial/states-00001/00001.safetensors"
    whole, held = journal.read_bytes(), state.read_bytes()
    for damaged in (b"{", whole.replace(b'"done": 1', b'"done": 2'), whole.replace(b"sweep/1", b"sweep/7"), b"[]"):
        journal.write_bytes(damaged)
        with pytest.raises(SecateurError, match=r"sweep.json is damaged"):
            language.prune_folder(source, METHODS["sparsegpt"], BATCHES, to)
    journal.write_bytes(whole)
    state.write_bytes(held[:50])
    with pytest.raises(SecateurError, match=r"00001.safetensors is no safetensors file, or it is damaged"):
        language.prune_folder(source, METHODS["sparsegpt"], BATCHES, to)
    state.write_bytes(held)
    assert language.prune_folder(source, METHODS["sparsegpt"], BATCHES, to).resumed_at == 1
