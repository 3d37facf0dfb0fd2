"""Damage of every kind to the bytes of a file."""

from __future__ import annotations

import io
import random
import re
import zipfile

NUMBERS = [
    "0",
    "-1",
    "1.5",
    "8",
    str(2**31),
    str(2**63),
    "1" + "0" * 30,
    "NaN",
    "1e999",
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
]
WORDS = [
    '""',
    "5",
    "null",
    "[]",
    "{}",
    '"w"',
    '"F32"',
    '"U8"',
    '"BF16"',
    '"F8_E4M3"',
    '"I64"',
    '"\\u001b[2J"',
    "[[[]]]",
]


def flipped(chance: random.Random, content: bytes, stop: int) -> bytes:
    other = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        other[chance.randrange(max(1, stop))] ^= 1 << chance.randrange(8)
    return bytes(other)


def cut_and_pasted(chance: random.Random, content: bytes) -> bytes:
    a, b, c = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    return chance.choice(
        [content[:a], content[:a] + content[b:], content[:b] + content[a:], content[:a] + content[b:c]]
    )


def edited(chance: random.Random, text: str) -> str:
    """A header or a record in which a number or a word is another one."""
    pattern, others = chance.choice([(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", NUMBERS), (r'"[^"\\]*"', WORDS)])
    found = list(re.finditer(pattern, text))
    if not found:
        return text[1:]
    one = chance.choice(found)
    other = chance.choice([*others, chance.choice(found)[0]])
    return text[: one.start()] + other + text[one.end() :]


def mutant(chance: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\0"
    way = chance.randrange(5)
    if way == 0:
        return cut_and_pasted(chance, content)
    if way == 1:
        return flipped(chance, content, len(content))
    if content[:2] == b"PK":
        return repacked(chance, content)
    if content[:1] == b"\x80":
        return flipped(chance, content, len(content) // 2)  # where its pickles are
    if content[:1] == b"{":
        return edited(chance, content.decode()).encode()
    size = int.from_bytes(content[:8], "little")
    if way == 2:
        return flipped(chance, content, 8 + size)
    text = content[8 : 8 + size].decode()
    for _ in range(chance.randint(1, 2)):
        text = edited(chance, text)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + content[8 + size :]


def repacked(chance: random.Random, content: bytes) -> bytes:
    """A file of torch.save with another pickle, whole as an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(buffer, "w") as archive:
        for name in whole.namelist():
            member = whole.read(name)
            if name.endswith("data.pkl"):
                member = chance.choice([cut_and_pasted, lambda one, two: flipped(one, two, len(two))])(chance, member)
            archive.writestr(name, member)
    return buffer.getvalue()
