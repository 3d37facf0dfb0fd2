"""Files of tensors from anywhere, opened with care: what is too large, damaged or more than tensors is refused.

Nothing is believed that a file says of itself. What it claims is compared with the bytes that it has before anything of
that size is made, so that reading it takes memory and time in proportion to the file.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import warnings
import zlib
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import why_damaged
from secateur._base.text import shown
from secateur.masks import Masks
from secateur.shrinking.files import read

#: Keys under which training scripts keep the weights, the usual ones first.
_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")

# What a state_dict is made of. torch.load(weights_only=True) runs no other code, but takes more: `bytearray(10**10)`.
_PLAIN = {
    "collections OrderedDict",
    "collections Counter",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
}
_LAST, _LARGE = 22, 0xFFFFFFFF  # bytes of an archive's last record; a place that it has no room for
_UNREADABLE = (BadZipFile, ValueError, LookupError, OSError, ArithmeticError, zlib.error)
_BESIDES = 1 << 26  # bytes that views of the same memory may have besides; each tensor is made whole when it is shown


def weights_in(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return under which key of a checkpoint the weights are ("" for none), and which of them are not zero, by name.

    Weights are floating-point tensors of two dimensions or more; a training checkpoint's optimizer memory is none.

    Raises:
        SecateurError: the file holds none, is damaged, or could do more than hold tensors; says which.
    """
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt"} or _begins_as_pickle(path):
        key, tensors = _pickled(path)
    else:
        key, tensors = "", _safe(path)
    try:
        found = {name: _not_zero(tensor) for name, tensor in tensors}
    except SecateurError:
        raise
    except (AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as problem:
        raise _no_checkpoint(path, problem) from None
    if not found:
        raise SecateurError(f"{shown(path)} holds no weights: none of its tensors is a floating-point matrix.")
    return key, found


def masks_in(path: Path) -> Masks | None:
    """Return the masks of a mask file; None where it is something else.

    Raises:
        MaskError: it is one, and damaged.
        SecateurError: it is no file at all, and reading it might never end.
    """
    if not path.is_file():
        raise SecateurError(f"{shown(path)} is no file: expected a file of masks or weights, or a run's directory.")
    try:
        with safe_open(path, framework="pt") as file:
            ours = (file.metadata() or {}).get("format") == "secateur.masks"
    except (SafetensorError, OSError):
        return None
    return Masks.load(path) if ours else None


def _safe(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Give the weights of a safetensors file one after another: at most one of them is in memory."""
    why = why_damaged(path)
    if why is not None:
        raise SecateurError(f"{shown(path)} is damaged: {why}. Take another copy of it.")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") == "secateur.model":
                yield from ((name, tensor) for name, tensor in read(path).tensors.items() if _is_weight(tensor))
                return
            for name in file.keys():  # noqa: SIM118 (no mapping)
                stored = file.get_slice(name)
                kind, shape = stored.get_dtype(), stored.get_shape()
                if kind.startswith(("F", "BF")) and len(shape) >= 2 and not name.startswith("optimizer/"):
                    yield name, file.get_tensor(name)
    except SafetensorError as problem:
        raise SecateurError(f"{shown(path)} is no safetensors file, or it is damaged: {shown(problem)}") from None


def _not_zero(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.itemsize == 1 else tensor) != 0  # eight bits are stored, not compared


def _pickled(path: Path) -> tuple[str, list[tuple[str, Tensor]]]:
    _refuse_more_than_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about the age of the file
            zipped = _is_zip(path)  # mapped: what it claims of its tensors takes no memory
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as problem:
        raise _more(path, str(problem)) from None
    except Exception as problem:  # whatever a stranger's bytes lead to: it is no checkpoint
        raise _no_checkpoint(path, problem) from None
    key, found = _state_dict(path, content)
    tensors = list(_distinct(found).items())
    claimed, size = sum(tensor.numel() * tensor.itemsize for _, tensor in tensors), path.stat().st_size
    if claimed > 4 * size + _BESIDES:
        raise SecateurError(
            f"{shown(path)} is refused: its tensors claim {claimed:,} bytes, and the file has {size:,}. If they are "
            "expanded views, save them as `tensor.contiguous()`."
        )
    return key, tensors


def _state_dict(path: Path, content: Any) -> tuple[str, dict[str, Tensor]]:
    """Find the weights: at the top, under one of the usual keys, or under the only one that has some."""
    found = _nested(content, set(), depth=2)
    if "" in found:
        return "", found[""]
    usual = min(found, key=_rank, default="")
    if len(found) > 1 and _rank(usual) == len(_KEYS):
        keys = ", ".join(map(repr, found))
        raise SecateurError(f"{shown(path)} holds weights under several keys: {keys}. Save one of them alone.")
    return usual, found.get(usual, {})


def _nested(content: Any, seen: set[int], depth: int) -> dict[str, dict[str, Tensor]]:
    """Return the mappings that hold weights, the outermost of each branch, by the keys that lead there."""
    if not isinstance(content, dict) or id(content) in seen:  # a mapping may stand in many places
        return {}
    seen.add(id(content))
    entries = {str(key): value for key, value in dict.items(content) if isinstance(key, str | int)}
    here = {name: value for name, value in entries.items() if _is_weight(value)}
    if here or depth == 0:
        return {"": here} if here else {}
    found = {}
    for key, value in entries.items():
        if "optim" not in key.lower():
            for rest, tensors in _nested(value, seen, depth - 1).items():
                found[f"{key}.{rest}" if rest else key] = tensors
    return found


def _rank(key: str) -> int:
    """Where the first word of a key stands among the usual ones; behind them where it is another."""
    first = key.partition(".")[0]
    return _KEYS.index(first) if first in _KEYS else len(_KEYS)


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2 and value.is_floating_point()


def _distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what is another's memory under another name: a tied weight is one."""
    places = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()): name
        for name, tensor in reversed(list(tensors.items()))
    }
    first = set(places.values())
    return {name: tensor for name, tensor in tensors.items() if name in first}


def _refuse_more_than_tensors(path: Path) -> None:
    """Look through a pickle without opening it: what it would call, and how much its archive claims to hold."""
    with open(path, "rb") as file:
        try:
            if not _is_zip(path):
                with mmap(file.fileno(), 0, access=ACCESS_READ) as pickles:  # which gives no more than there is
                    for _ in range(5):  # magic number, version, system, the content, the names of its storages
                        _refuse_calls(path, pickles)
                return
            with ZipFile(file) as archive:
                _refuse_bomb(path, archive)
                (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                _refuse_calls(path, archive.read(name))
        except SecateurError:
            raise
        except (*_UNREADABLE, EOFError, MemoryError, NotImplementedError, RuntimeError) as problem:
            raise _no_checkpoint(path, problem) from None


def _refuse_calls(path: Path, content: mmap | bytes) -> None:
    stream: Any = content  # a file to read from, or bytes
    for operation, argument, _ in pickletools.genops(stream):
        name = str(argument)
        if operation.name in {"INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}:
            raise _more(path, f"pickle operation {operation.name}")
        if operation.name == "GLOBAL" and name not in _PLAIN and not _is_kind(name):
            raise _more(path, f"it names {name.replace(' ', '.')}")


def _is_kind(name: str) -> bool:
    """Whether a name is that of a dtype, or of a typed storage, which stands for its dtype."""
    room, _, word = name.partition(" ")
    if room != "torch":
        return False
    return word.endswith("Storage") or isinstance(getattr(torch, word, None), torch.dtype)


def _refuse_bomb(path: Path, archive: ZipFile) -> None:
    """Refuse an archive that unpacks to more than it is: torch compresses nothing, and stores nothing twice."""
    members, size = archive.infolist(), path.stat().st_size
    claimed = sum(member.file_size for member in members)
    if any(member.compress_type != ZIP_STORED for member in members):
        how = "with compressed members"
    elif claimed > size:
        how = "whose members overlap"
    elif not _ends_plainly(path, archive, size):
        how = "that ends in an odd way"
    else:
        return
    raise SecateurError(
        f"{shown(path)} is refused: it is an archive {how} that claims {claimed:,} bytes, and the file has {size:,}. "
        "torch.save writes no such archive."
    )


def _ends_plainly(path: Path, archive: ZipFile, size: int) -> bool:
    """Whether every reader finds the same list of members: one, at the end, where the last bytes say that it is."""
    with open(path, "rb") as file:
        file.seek(-_LAST, os.SEEK_END)
        last = file.read()
    place = int.from_bytes(last[16:20], "little")
    return last[:4] == b"PK\5\6" and (place == archive.start_dir or (place == _LARGE and size >= _LARGE))


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"  # what torch.load goes by


def _begins_as_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        begin = file.read(4)
    return begin == b"PK\x03\x04" or (begin[:2] == b"\x80\x02" and path.suffix != ".safetensors")


def _more(path: Path, why: str) -> SecateurError:
    return SecateurError(
        f"{shown(path)} is refused: it is a pickle that holds more than plain tensors, so opening it could run a "
        f"stranger's code ({shown(why.splitlines()[0] if why else 'no reason given')}). Save the tensors alone: "
        "safetensors.torch.save_file(model.state_dict(), path)."
    )


def _no_checkpoint(path: Path, problem: BaseException) -> SecateurError:
    why = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return SecateurError(f"{shown(path)} is not a checkpoint, or it is damaged: {shown(why)}")
