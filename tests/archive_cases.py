"""Small archives of every kind, and damage to them that still has the right checksums."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import torch
from torch import nn

import secateur as sc
from mutant_cases import cut_and_pasted, flipped, mutant
from secateur import archive
from secateur._base.files import CHECKSUM


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
    found["dense"] = folder / "dense.safetensors"
    archive.compress(net(), None, found["dense"], values=archive.shared(9))
    wide = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5))
    found["shrunk"] = folder / "shrunk.safetensors"
    archive.compress(sc.shrink(wide, 0.5, torch.zeros(2, 2), draws=0), None, found["shrunk"])
    return found


def resealed(chance: random.Random, content: bytes) -> bytes:
    """Damage inside: records, or what the header says, are other ones, and all checksums fit."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = header.pop("__metadata__")
    data = content[8 + size :]
    said = json.loads(about["about"])
    pieces, at, victim = [], 0, chance.choice(list(header))
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        piece = data[begin:end]
        if name == victim and piece:
            way = chance.randrange(3)
            body = piece[:-4] if name.endswith("#coded") else piece
            if way == 0:
                body = flipped(chance, body, len(body))
            elif way == 1:
                body = flipped(chance, body, min(len(body), 24))  # where its head is
            elif name.endswith("#coded"):
                body = cut_and_pasted(chance, body)
            piece = body + zlib.crc32(body).to_bytes(4, "little") if name.endswith("#coded") else body
            if not name.endswith("#coded"):
                said["sums"][name] = f"{zlib.crc32(piece):08x}"
        if name.endswith("#coded"):
            entry["shape"] = [len(piece)]
        entry["data_offsets"] = [at, at + len(piece)]
        at += len(piece)
        pieces.append(piece)
    about["about"] = json.dumps(said)
    return sealed({"__metadata__": about, **header}, b"".join(pieces))


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
    return (retold(chance, content), True) if way == 1 else (resealed(chance, content), True)
