"""What an archive holds, name by name, in few bytes: a JSON text, deflated where that is shorter."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from secateur.coding import Cursor, number

__all__ = ["ENTRY", "GIVEN", "once", "packed_directory", "unpack_directory"]

#: The one tensor of the file around it.
ENTRY = "archive"
#: What a deflated directory may refer back to: what most of them say.
GIVEN = (
    b'running_meanrunning_varnum_batches_trackedin_proj_weightin_proj_biasweight_ih_l0weight_hh_l0bias_ih_l0bias_hh_l0'
    b'embeddingencoder.layers.attentiondecoder.downsampleclassifierfeaturesconv1.fc1.fc2.fc3.bn1.layer1.0.layer2.0.'
    b'"F16""BF16""I64""F32",[]],"tied":{"manifest":{"held","sparse","dense","masked","model":"secateur.lab.models.'
    b'torch.nn.modules.container.Sequential","tensors":[["weight",["bias",["0.weight",["0.bias",[]]}{"kind":"masked",'
)  # fmt: skip
_DEFLATED = 16  # bytes of text for each byte that it is deflated to, at most: more is written as it is
_LONGEST = 100_000_000


def packed_directory(content: Mapping[str, Any]) -> bytes:
    """Return a directory as bytes: its length, the length of what follows, and that."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=GIVEN)
    small = deflate.compress(text) + deflate.flush()
    if len(small) >= len(text) or len(text) > _DEFLATED * len(small):
        small = text
    return number(len(text)) + number(len(small)) + small


def unpack_directory(cursor: Cursor) -> Any:
    """Read a directory; no more memory is taken than 16 bytes of text for each that is there.

    Raises:
        ValueError: it is none.
    """
    length, size = cursor.number(_LONGEST), cursor.number(cursor.left)
    small = cursor.take(size)
    if length != size:
        if length > _DEFLATED * size:
            raise ValueError(f"its directory claims {length:,} bytes in {size:,}")
        inflate = zlib.decompressobj(-15, zdict=GIVEN)
        try:
            text = inflate.decompress(small, length + 1)
        except zlib.error as problem:
            raise ValueError(f"its directory cannot be inflated: {problem}") from None
        if len(text) != length or not inflate.eof or inflate.unused_data:
            raise ValueError("its directory ends elsewhere than it says")
        small = text
    return json.loads(small, object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found
