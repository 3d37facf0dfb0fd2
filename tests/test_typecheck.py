"""The run-time checks of the test suite themselves: of arguments, results, fields and shapes, wherever they stand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn

typecheck = pytest.importorskip("typecheck", reason="needs jaxtyping and beartype")

ROOM = """
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from elsewhere import Unknown

Named = Mapping[str, Float[Tensor, "n n"]]


def plain(count: int, *rest: float, word: str = "") -> str:
    return word if count > 0 else count


def shaped(one: Float[Tensor, "n m"], other: Float[Tensor, "m"]) -> Float[Tensor, "n"]:
    return one @ other if one.shape[0] < 9 else one


def nested(named: Named | None = None) -> None: ...


def unknown(one: Unknown, count: int) -> None: ...


def around(word):
    def inner(count: int, *, end: str = "") -> str:
        return count * word + end if isinstance(word, str) else word

    return inner


def drawn(count: int) -> Iterator[int]:
    yield count


def tensors(x: Tensor) -> Tensor:
    return x + 1


@dataclass(frozen=True)
class Made:
    size: int

    @property
    def lid(self) -> str:
        return self.size

    @classmethod
    def of(cls, size: int) -> Made:
        return cls(size)

    @staticmethod
    def twice(size: int) -> int:
        return 2 * size


class Below(Made): ...


@dataclass
class Square:
    side: Float[Tensor, "n n"]
"""

x = torch.ones(3, 4)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("checked")
    (folder / "checked_room.py").write_text(ROOM, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, typecheck.install("checked_room"):
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("checked_room")
    del sys.modules["checked_room"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda room: room.plain("1"), "count"),
        (lambda room: room.plain(1, 2.0, "3"), "rest"),
        (lambda room: room.plain(1, word=2), "word"),
        (lambda room: room.plain(0), "return"),
        (lambda room: room.shaped(x, torch.ones(3)), "other"),  # two sizes under one name
        (lambda room: room.shaped(x.long(), torch.ones(4)), "i64"),
        (lambda room: room.shaped(torch.ones(9, 4), torch.ones(4)), "return"),
        (lambda room: room.nested({"a": x}), "n n"),
        (lambda room: room.unknown(1, "2"), "count"),
        (lambda room: room.around("abc")("2"), "count"),
        (lambda room: room.around("abc")(1, end=2), "end"),
        (lambda room: room.around(1)(2), "return"),  # the word is not checked
        (lambda room: list(room.drawn("1")), "count"),
        (lambda room: room.Made("1"), "size"),
        (lambda room: room.Made(1).lid, "return"),
        (lambda room: room.Made.of("1"), "size"),
        (lambda room: room.Made.twice("1"), "size"),
        (lambda room: room.Below("1"), "size"),
        (lambda room: room.Square(x), "n n"),
    ],
)
def test_what_does_not_fit_is_found(room: ModuleType, call: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named) as caught:
        call(room)
    assert type(caught.value).__name__ == "TypeCheckError"


def test_what_fits_passes(room: ModuleType) -> None:
    assert room.plain(1, 2, 3.0, word="w") == "w"  # an int stands where a float is declared
    assert room.shaped(x, torch.ones(4)).shape == (3,)
    room.nested({"a": torch.ones(2, 2)})
    room.unknown(object(), 1)  # an annotation that names nothing at run time checks nothing
    one, other = room.around("a"), room.around("b")  # of one code: each is itself
    assert (one(2), other(3, end="."), one(1)) == ("aa", "bbb.", "a")
    assert list(room.drawn(1)) == [1]
    assert room.Made.of(3) == room.Made(3) and room.Below(3).size == 3 and room.Made.twice(3) == 6
    assert room.Square(torch.ones(2, 2)).side.shape == (2, 2)


def test_annotations_stay_as_they_were_written(room: ModuleType) -> None:
    assert room.plain.__annotations__["count"] == "int" and room.plain.__wrapped__.__annotations__["return"] == "str"


def test_a_model_that_is_traced_passes_stand_ins(room: ModuleType) -> None:
    class Model(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return room.tensors(inputs)

    assert torch.equal(fx.symbolic_trace(Model())(x), x + 1)
    with pytest.raises(TypeError):
        room.tensors([1.0])
