"""A language model pruned on disk: one block in memory at a time, the same bits as in memory, and a way to go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import write_whole
from secateur._base.text import shown
from secateur.axes import Method
from secateur.lab.language._calls import Listener
from secateur.lab.language._folder import MASKS
from secateur.lab.language._journal import FILE, Journal, begun, resumed
from secateur.lab.language._skeleton import Skeleton
from secateur.lab.language._weights import INDEX, Source, kind_of, read_one, write
from secateur.lab.repeat import locked
from secateur.masks import Masks, join, prunable
from secateur.measures import Batch, Needs
from secateur.pruning import prune
from secateur.pruning.blocks import Call, Stage, evaluating, squared_distance, wants_targets, with_argument

_TEXTS = (".json", ".txt", ".model", ".jinja")  # of a tokenizer and of configurations
_STATE = "state"


@dataclass(frozen=True)
class PrunedFolder:
    """What `prune_folder` wrote.

    Attributes:
        folder: where.
        blocks: how many blocks the model has.
        kept: how many of the blocks' weights stay.
        prunable: of how many.
        resumed_at: the number of the block at which an interrupted sweep went on; 0 where none was.
    """

    folder: Path
    blocks: int
    kept: int
    prunable: int
    resumed_at: int = 0

    @property
    def density(self) -> float:
        """The share that stays."""
        return self.kept / self.prunable


@torch.inference_mode(mode=False)
@torch.no_grad()
def prune_folder(
    source: Path | str,
    method: Method,
    batches: Sequence[Batch],
    to: Path | str,
    *,
    device: torch.device | str = "cpu",
    watch: Callable[[int, int], None] | None = None,
) -> PrunedFolder:
    """Prune a causal language model from one folder into another, with one of its blocks in memory at a time.

    The same as `prune(opened(source), method, batches, blocks=found_in(model))` and `written`, bit for bit, in another
    order: a block is read from the safetensors files, measured on what the pruned blocks before it made of the batches,
    pruned, run, and written as a shard of its own. What the batches look like between two blocks is kept on disk, a
    file for each batch. All of this lies in `<to>.partial` until it is whole; after an interruption, however hard, the
    same call goes on at the block that it was in, and ends in the same bits (on the same number of threads).

    Memory: a block twice (the method may have to give its weights back), its evidence, one batch, and before the first
    block the embeddings. Disk: the new model, and twice what one layer makes of all batches.

    Args:
        source: the model's folder: config.json, and its weights as safetensors.
        method: what to do with each block; it must need no labels, and no outputs of the dense model.
        batches: calibration, as `batches_of` makes it.
        to: the new folder, which must not be there, or be empty.
        device: where blocks are run.
        watch: called with the number of the block that begins, from 0, and how many there are.

    Raises:
        SecateurError: bad input, named, before anything is written; a `<to>.partial` of another sweep; whatever `prune`
            refuses. UnfitModelError: blocks that are not called one after the other.
    """
    _refuse(method, batches)
    place = Path(to)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SecateurError(f"{shown(place)} is there already: name a folder that is new or empty.")
    partial = place.with_name(f"{place.name}.partial")
    files = Source(Path(source))
    skeleton = Skeleton(Path(source), files, torch.device(device))
    fresh = begun(method, files.stamp, batches, skeleton.blocks)
    first = resumed(partial, fresh)
    with locked(partial), evaluating(skeleton.model), _tidied(partial):
        journal = _Sweep(skeleton, method, batches, partial, watch).run(resumed(partial, fresh))
    _finish(Path(source), partial, place)
    return PrunedFolder(place, len(journal.blocks), sum(journal.kept), sum(journal.prunable), max(0, first.done))


def _refuse(method: Method, batches: Sequence[Batch]) -> None:
    if not isinstance(method, Method):
        raise SecateurError(
            f"`method` must be a Method, got {type(method).__name__}. Write methods.wanda(density=0.5)."
        )
    if method.online or method.needs is Needs.LABELS or wants_targets(method):
        raise SecateurError(
            f"{method.name} needs more than inputs (training, labels, or the outputs of the dense model), which there "
            "is not for a model on disk. Open the model and use prune(model, method, batches, blocks=…)."
        )
    if not batches:
        raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")


@contextmanager
def _tidied(partial: Path) -> Iterator[None]:
    """If the sweep fails before a block is done, nothing is worth keeping."""
    try:
        yield
    except SecateurError:
        if not any(partial.glob("masks-*")):
            shutil.rmtree(partial, ignore_errors=True)
        raise


class _Sweep:
    """One sweep over one model; what it has done lies in its folder."""

    def __init__(
        self,
        skeleton: Skeleton,
        method: Method,
        batches: Sequence[Batch],
        folder: Path,
        watch: Callable[[int, int], None] | None,
    ) -> None:
        self._skeleton, self._method, self._batches = skeleton, method, batches
        self._folder, self._watch = folder, watch
        self._calls: list[list[Call]] = []
        self._place: int | str = 0

    def run(self, journal: Journal) -> Journal:
        """Go on from a journal to the end."""
        count = len(self._skeleton.blocks)
        if journal.done < 0:
            _empty(self._folder)
            journal.write(self._folder)
        if journal.done < count:
            self._listen(write_states=journal.done < 0)
        if journal.done < 0:
            self._write_outside(count)
            journal = journal.ready()
            journal.write(self._folder)
        for number in range(journal.done, count):
            if self._watch is not None:
                self._watch(number, count)
            masks = self._one(number)
            journal = journal.after(masks.kept, masks.numel)
            journal.write(self._folder)
            shutil.rmtree(self._states(number), ignore_errors=True)
        self._gather(count)
        return journal

    def _listen(self, *, write_states: bool) -> None:
        """How each block is called, and what the first one reads."""
        listener = Listener(self._skeleton)
        for index, (hidden, calls) in enumerate(listener.calls(self._batches)):
            self._calls.append(calls)
            if write_states:
                self._write_state(0, index, hidden)
        self._place = listener.place

    def _one(self, number: int) -> Masks:
        """Prune one block, and write what it makes of the batches, its shard and its masks."""
        with self._skeleton.block(number) as stage:
            names = list(prunable(stage, biases=self._method.structure.biases))
            masks = prune(stage, self._method, _States(self, number), loss=squared_distance, only=names)
            if number + 1 < len(self._skeleton.blocks):
                for index, (call, _) in enumerate(_States(self, number)):
                    self._write_state(number + 1, index, stage(*call))
            self._write_block(number, stage)
        masks.save(self._folder / f"masks-{number:05}.safetensors")
        return masks

    # --- files --------------------------------------------------------------------------------------------------------

    def call(self, number: int, index: int) -> Call:
        """The call of a block on a batch."""
        hidden = read_one(self._states(number) / f"{index:05}.safetensors", _STATE)
        return with_argument(self._calls[index][number], self._place, hidden.to(self._skeleton.device))

    def __len__(self) -> int:
        return len(self._batches)

    def _states(self, number: int) -> Path:
        return self._folder / f"states-{number:05}"

    def _write_state(self, number: int, index: int, hidden: Tensor) -> None:
        path = self._states(number) / f"{index:05}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write(path, {_STATE: kind_of(hidden)}, lambda _: hidden)

    def _write_block(self, number: int, stage: Stage) -> None:
        tensors = stage.state_dict()
        kinds = {name: kind_of(tensor) for name, tensor in tensors.items()}
        write(self._folder / _shard(number + 1, len(self._skeleton.blocks)), kinds, tensors.__getitem__)

    def _write_outside(self, count: int) -> None:
        """Copy what no block has, one tensor at a time, and say where everything will be."""
        kinds = {name: kind_of(tensor) for name, tensor in self._skeleton.outside().items()}
        write(self._folder / _shard(0, count), kinds, self._skeleton.value)
        places, size = dict.fromkeys(kinds, _shard(0, count)), sum(kind.bytes for kind in kinds.values())
        for number, block in enumerate(self._skeleton.inside()):
            places |= dict.fromkeys(block, _shard(number + 1, count))
            size += sum(kind.bytes for kind in block.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        write_whole(self._folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())

    def _gather(self, count: int) -> None:
        """The masks of all blocks in one file. Nothing is taken away before that is there."""
        parts = [self._folder / f"masks-{number:05}.safetensors" for number in range(count)]
        if not (self._folder / MASKS).is_file():
            join(parts, self._folder / MASKS)
        for part in parts:
            part.unlink(missing_ok=True)


class _States(Sequence[Any]):
    """What a block is called with, batch by batch, as `prune` takes it: one batch in memory at a time."""

    def __init__(self, sweep: _Sweep, number: int) -> None:
        self._sweep, self._number = sweep, number

    def __len__(self) -> int:
        return len(self._sweep)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._sweep.call(self._number, index), None

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def _empty(folder: Path) -> None:
    """Take away what another sweep left that had not done a block yet."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _shard(number: int, blocks: int) -> str:
    return f"model-{number + 1:05}-of-{blocks + 1:05}.safetensors"


def _finish(source: Path, partial: Path, place: Path) -> None:
    """Put texts beside the weights, and the folder where it was asked for."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _TEXTS and not path.name.endswith(".index.json"):
            write_whole(partial / path.name, path.read_bytes())
    for states in partial.glob("states-*"):
        shutil.rmtree(states, ignore_errors=True)
    (partial / ".lock").unlink(missing_ok=True)
    os.replace(partial, place)
    with suppress(OSError):
        (place / FILE).unlink(missing_ok=True)
