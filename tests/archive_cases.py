"""Small archives of every kind, and damage to them that still has the right checksums."""

from __future__ import annotations

import json
import math
import random
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur as sc
from mutant_cases import cut_and_pasted, flipped, mutant
from secateur import archive
from secateur._base.files import CHECKSUM, TYPE_NAMES
from secateur.archive._directory import ENTRY, GIVEN, packed_directory, unpack_directory
from secateur.coding import Cursor, number

BYTES = {name: dtype.itemsize for dtype, name in TYPE_NAMES.items()}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12))


def corpus(folder: Path) -> dict[str, Path]:
    """One archive for each way in which something may be told."""
    torch.manual_seed(0)
    model = net()
    masks = sc.prune(model, sc.methods.magnitude(0.4))
    ways: dict[str, dict[str, object]] = {
        "exact": {},
        "shared, gaps, huffman": {
            "values": archive.shared(3), "supports": (archive.gaps(3),), "coders": (archive.huffman,)
        },
        "int8, bitmap, packed": {
            "values": archive.int8(), "supports": (archive.bitmap,), "coders": (archive.packed, archive.plain)
        },
        "rounded": {"values": archive.rounded(torch.bfloat16), "supports": (archive.modelled,)},
    }  # fmt: skip
    found = {}
    for index, (name, way) in enumerate(ways.items()):
        found[name] = folder / f"{index}.safetensors"
        archive.compress(model, masks, found[name], **way)  # type: ignore[arg-type]
    found["version 1"] = folder / "first.safetensors"
    found["version 1"].write_bytes(first_version(found["exact"].read_bytes()))
    found["dense"] = folder / "dense.safetensors"
    archive.compress(net(), None, found["dense"], values=archive.shared(9))
    wide = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5))
    found["shrunk"] = folder / "shrunk.safetensors"
    archive.compress(sc.shrink(wide, 0.5, torch.zeros(2, 2), draws=0), None, found["shrunk"])
    return found


def parts_of(content: bytes) -> tuple[dict[str, str], dict[str, Any], list[tuple[list[Any], bytes]]]:
    """An archive taken apart: its texts, its directory, and each entry with its bytes."""
    size = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + size])["__metadata__"]
    cursor = Cursor(content[8 + size :])
    said, found = unpack_directory(cursor), []
    for entry in said.pop("tensors"):
        whole = len(entry) == 2
        taken = entry[1] if whole else math.prod(entry[2]) * BYTES[entry[1]]
        found.append((entry, cursor.take(taken)))
    return texts, said, found


def joined(texts: dict[str, str], said: dict[str, Any], parts: list[tuple[list[Any], bytes]]) -> bytes:
    """An archive of these parts, with the checksum of a file."""
    directory = packed_directory({**said, "tensors": [entry for entry, _ in parts]})
    data = directory + b"".join(piece for _, piece in parts)
    return sealed({"__metadata__": texts, ENTRY: whole_of(data)}, data)


def whole_of(data: bytes) -> dict[str, object]:
    """What the header says of the one tensor."""
    return {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}


def resealed(chance: random.Random, content: bytes) -> bytes:
    """Damage inside: records, or what the directory says, are other ones, and all checksums fit."""
    texts, said, parts = parts_of(content)
    victim = chance.randrange(len(parts) + 1)
    if victim == len(parts):
        return redirected(chance, content)
    entry, piece = parts[victim]
    coded = len(entry) == 2
    if piece:
        way = chance.randrange(3)
        body = piece[:-4] if coded else piece
        if way < 2:
            body = flipped(chance, body, len(body) if way == 0 else min(len(body), 24))  # where its head is
        elif coded:
            body = cut_and_pasted(chance, body)
        piece = body + zlib.crc32(body).to_bytes(4, "little") if coded else body
    entry = [entry[0], len(piece)] if coded else [*entry[:3], f"{zlib.crc32(piece):08x}"]
    parts[victim] = (entry, piece)
    return joined(texts, said, parts)


def redirected(chance: random.Random, content: bytes) -> bytes:
    """A directory with another text, deflated or not, or with other bytes in its place."""
    texts, said, parts = parts_of(content)
    text = json.dumps({**said, "tensors": [entry for entry, _ in parts]}, separators=(",", ":")).encode()
    text = flipped(chance, text, len(text)) if chance.random() < 0.5 else cut_and_pasted(chance, text)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=GIVEN)
    small = deflate.compress(text) + deflate.flush()
    way = chance.randrange(4)
    if way == 0:
        small = text
    elif way == 1:
        small = flipped(chance, small, len(small))
    length = len(text) if way < 3 else chance.choice([0, 1, len(text) - 1, len(text) + 1, 1 << 20, 1 << 40])
    data = number(max(length, 0)) + number(len(small)) + small + b"".join(piece for _, piece in parts)
    return sealed({"__metadata__": texts, ENTRY: whole_of(data)}, data)


def first_version(content: bytes) -> bytes:
    """The same archive as version 1 wrote it: its directory is the header of the file."""
    texts, said, parts = parts_of(content)
    sums = {entry[0]: entry[3] for entry, _ in parts if len(entry) == 4}
    about = {"tied": {}, "manifest": None} | said | {"sums": sums}
    header, at = {}, 0
    for entry, piece in sorted(parts, key=lambda part: len(part[0]) == 2):
        name, kind, shape = (f"{entry[0]}#coded", "U8", [len(piece)]) if len(entry) == 2 else entry[:3]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(piece)]}
        at += len(piece)
    known = {"format": texts["format"], "version": "1", "about": json.dumps(about)}
    data = b"".join(piece for _, piece in sorted(parts, key=lambda part: len(part[0]) == 2))
    return sealed({"__metadata__": known, **header}, data)


def sealed(header: dict[str, object], data: bytes) -> bytes:
    """A file with the checksum that it should have."""
    about = dict(header["__metadata__"])  # type: ignore[call-overload]
    about.pop(CHECKSUM, None)
    whole = {**header, "__metadata__": {CHECKSUM: "0" * 8, **about}}
    text = json.dumps({"__metadata__": whole.pop("__metadata__"), **whole}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    found = zlib.crc32(data, zlib.crc32(head))
    return head.replace(b'"' + b"0" * 8 + b'"', b'"%08x"' % found, 1) + data


def retold(chance: random.Random, content: bytes) -> bytes:
    """A header in which something is another, with the checksum that fits."""
    other = mutant(chance, content)
    size = int.from_bytes(other[:8], "little")
    try:
        header = json.loads(other[8 : 8 + size])
        return sealed(header, other[8 + size :])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return other


def damaged(chance: random.Random, content: bytes) -> tuple[bytes, bool]:
    """A file that is another; and whether its checksums fit all the same."""
    way = chance.randrange(4)
    if way == 0:
        return mutant(chance, content), False
    if way > 1 and b'"version":"1"' in content:
        way = 1
    return (retold(chance, content), True) if way == 1 else (resealed(chance, content), True)
