"""The front door opens at once: names are imported when they are asked for, and none is lost by it."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys

import pytest

import secateur
from house import PACKAGE, tree


def _promised() -> dict[str, str]:
    """What type checkers are told in `secateur/__init__.py`: name -> the module that it is imported from."""
    (block,) = [node for node in tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If)]
    return {
        alias.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.mark.parametrize("name", sorted(_promised()))
def test_a_name_is_what_type_checkers_take_it_for(name: str) -> None:
    home = _promised()[name]
    if home == "secateur":
        assert getattr(secateur, name) is importlib.import_module(f"secateur.{name}")
    else:
        assert getattr(secateur, name) is getattr(importlib.import_module(home), name)


def test_no_name_is_offered_behind_the_back_of_type_checkers() -> None:
    assert set(secateur._HOME) == {name for name, home in _promised().items() if home != "secateur"}
    assert set(secateur.__all__) <= set(_promised()) <= set(dir(secateur))


def test_rooms_are_found_and_unknown_names_are_not() -> None:
    assert secateur.shrinking is sys.modules["secateur.shrinking"]
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        secateur.prun  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'prun'"):
        exec("from secateur import prun")
    assert not hasattr(secateur, "_no_such_room")


def test_everything_can_be_imported_with_a_star_and_pickled() -> None:
    names: dict[str, object] = {}
    exec("from secateur import *", names)
    assert set(secateur.__all__) <= set(names)
    assert pickle.loads(pickle.dumps(names["prune"])) is secateur.prune


def _fresh(code: str) -> str:
    asked = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=100).stdout


@pytest.mark.parametrize("word", ["--help", "--version", "run --help", "shrink --help"])
def test_what_only_tells_does_not_wait_for_torch(word: str) -> None:
    code = (
        f"import sys, secateur.cli; status = secateur.cli.main({word.split()!r})\n"
        "print(status, sorted({'torch', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    assert _fresh(code).splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    "first", ["from secateur.sparse import sparsify", "import secateur.lab.running", "secateur.report"]
)
def test_any_room_may_come_first(first: str) -> None:
    assert _fresh(f"import secateur\n{first}\nfrom secateur import *\nprint(prune.__name__)") == "prune\n"
