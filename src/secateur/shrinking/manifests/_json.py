"""A manifest as JSON and back: indices as ranges, and nothing is believed that is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from secateur.coupling import ResidualBlock
from secateur.shrinking.manifests._manifest import Manifest
from secateur.shrinking.manifests._record import Span, UnitRecord

__all__ = ["from_json", "to_json"]

_MOST = 1 << 31  # an index, or a size
_LONGEST = 64  # a tuple that a module gives out


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return what `from_json` reads: JSON values alone."""
    return {
        "shapes": {name: list(shape) for name, shape in manifest.shapes.items()},
        "kept": {
            name: {str(dim): _ranges(index) for dim, index in dims.items()} for name, dims in manifest.kept.items()
        },
        "numbers": {name: list(pair) for name, pair in manifest.numbers.items()},
        "rescaled": {name: list(pair) for name, pair in manifest.rescaled.items()},
        "epsilons": {name: list(pair) for name, pair in manifest.epsilons.items()},
        "added": list(manifest.added),
        "reasons": list(manifest.reasons),
        "removed": [list(astuple(block)) for block in manifest.removed],
        "groups": [
            {
                "group": record.group,
                "total": record.total,
                "kept": _ranges(record.kept),
                "scores": [float(f"{score:.6g}") if score == score else None for score in record.scores],
                "causes": _by_text(record.causes),
            }
            for record in manifest.groups
        ],
        "places": {
            name: {str(dim): [_span(span) for span in spans] for dim, spans in dims.items()}
            for name, dims in manifest.places.items()
        },
    }


def from_json(content: Any, *, most: int = 1 << 26) -> Manifest:
    """Read a manifest.

    Args:
        content: what `to_json` made.
        most: how many indices it may speak of in all: a few words can stand for any number of them.

    Raises:
        ValueError: it is none; says what of it is wrong.
    """
    read, purse = _Reader(content), _Purse(most)
    groups = tuple(_record(_Reader(each), purse) for each in read.of("groups", list))
    reasons = read.texts("reasons")
    return Manifest(
        shapes=read.mapping("shapes", lambda value: tuple(_whole(n) for n in _list(value))),
        kept=read.mapping(
            "kept", lambda value: {_whole(int(dim)): purse.indices(text) for dim, text in _dict(value).items()}
        ),
        numbers=read.mapping("numbers", lambda value: _pair(value, _whole, _whole)),
        rescaled=read.mapping("rescaled", lambda value: _pair(value, _float, _flag)),
        groups=groups,
        added=read.texts("added"),
        epsilons=read.mapping("epsilons", lambda value: _pair(value, _maybe_float, _float)),
        places=read.mapping(
            "places",
            lambda value: {
                _whole(int(dim)): tuple(_read_span(each, len(groups), len(reasons), most) for each in _list(spans))
                for dim, spans in _dict(value).items()
            },
        ),
        reasons=reasons,
        removed=tuple(_block(each) for each in _list(_dict(content).get("removed", []))),
    )


class _Reader:
    def __init__(self, content: Any) -> None:
        self._content = _dict(content)

    def of(self, name: str, kind: type) -> Any:
        value = self._content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"`{name}` of its manifest is no {kind.__name__}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        if not all(isinstance(each, str) for each in self.of(name, list)):
            raise ValueError(f"`{name}` of its manifest is no list of texts")
        return tuple(self.of(name, list))

    def mapping(self, name: str, read: Callable[[Any], Any]) -> dict[str, Any]:
        try:
            return {key: read(value) for key, value in self.of(name, dict).items()}
        except (TypeError, ValueError) as problem:
            raise ValueError(f"`{name}` of its manifest: {problem}") from None


def _record(read: _Reader, purse: _Purse) -> UnitRecord:
    total = _whole(read.of("total", int))
    kept = purse.indices(read.of("kept", str))
    scores = tuple(float("nan") if each is None else _float(each) for each in read.of("scores", list))
    causes = {unit: _text(text) for text, units in read.of("causes", dict).items() for unit in purse.indices(units)}
    if any(unit >= total for unit in kept) or len(scores) not in (0, total):
        raise ValueError("`groups` of its manifest: units that its group does not have")
    return UnitRecord(read.of("group", str), total, kept, scores, causes)


def _ranges(indices: Sequence[int]) -> str:
    """Write whole numbers as ranges: 0-3 5 9-10; in the order given."""
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


class _Purse:
    """Reads ranges, so long as there are not more indices in all than there may be."""

    def __init__(self, most: int) -> None:
        self._left = most

    def indices(self, text: Any) -> tuple[int, ...]:
        found: list[int] = []
        for word in _text(text).split():
            first, dash, last = word.partition("-")
            low = _whole(int(first))
            high = _whole(int(last)) if dash else low
            self._left -= high - low + 1
            if high < low or self._left < 0:
                raise ValueError(f"{word!r} is no range of its manifest")
            found.extend(range(low, high + 1))
        return tuple(found)


def _by_text(causes: Mapping[int, str]) -> dict[str, str]:
    found: dict[str, list[int]] = {}
    for unit, text in sorted(causes.items()):
        found.setdefault(text, []).append(unit)
    return {text: _ranges(units) for text, units in found.items()}


def _span(span: Span) -> list[int]:
    return [span.begin, span.size, span.group, span.unit, span.step, span.reason]


def _read_span(value: Any, groups: int, reasons: int, most: int) -> Span:
    numbers = [each if type(each) is int else _whole(each) for each in _list(value)]
    if (
        len(numbers) != 6
        or not (-1 <= numbers[2] < groups and -1 <= numbers[5] < reasons)
        or min(numbers[:2]) < 0
        or sum(numbers[:2]) > most
    ):
        raise ValueError(f"{value!r} is no stretch of a dimension")
    if numbers[2] < 0 and numbers[5] < 0:
        raise ValueError(f"{value!r} has neither a group nor a reason")
    return Span(*numbers)


def _block(value: Any) -> ResidualBlock:
    if len(_list(value)) != 6:
        raise ValueError(f"{value!r} is no residual block")
    path, argument, after, place, length, why = value
    if type(place) is not int or not -1 <= place < max(1, _whole(length)) or length > _LONGEST:
        raise ValueError(f"{value!r} is no residual block: the place of its result")
    return ResidualBlock(_text(path), _text(argument), _text(after), place, length, _text(why))


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a JSON object was expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list was expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, got {value!r}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(f"a whole number was expected, got {value!r}")
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise ValueError(f"a number was expected, got {value!r}")
    return float(value)


def _maybe_float(value: Any) -> float | None:
    return None if value is None else _float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false was expected, got {value!r}")
    return value


def _pair(value: Any, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> tuple[Any, Any]:
    if len(_list(value)) != 2:
        raise ValueError(f"a pair was expected, got {value!r}")
    return first(value[0]), second(value[1])
