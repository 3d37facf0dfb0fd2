"""The documentation keeps its word: pages run, links lead somewhere, every public name is described."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "papers").glob("*.md")),
]
# Its code is a method file and a test row, put through its own steps in test_contributing.py.
NOT_A_SCRIPT = {"CONTRIBUTING.md"}


def _python_blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each ```python block, but for those under a `<!-- not run: reason -->`."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"(^<!-- not run: .+ -->\n)?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] is None:
            yield text.count("\n", 0, match.start(2)) + 1, match[2]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in NOT_A_SCRIPT and list(_python_blocks(p))], ids=lambda p: p.name
)
def test_code_on_the_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    for line, block in _python_blocks(page):
        # Blank lines in front keep the page's own line numbers in tracebacks.
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), namespace)
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    missing = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if not re.match(r"[a-z]+:", target) and "_generated/" not in target and not (page.parent / target).exists()
    ]
    assert not missing, f"{page.name} links to what does not exist: {missing}"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The generator of the reference pages, docs/reference.py."""
    pytest.importorskip("sphinx", reason="the reference is written with Sphinx (extra `docs`)")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "reference", raising=False)
    import reference

    return reference


def test_every_public_name_is_documented(reference: types.ModuleType) -> None:
    import secateur

    assert reference.undocumented(secateur) == []


ROOM = '''"""A room."""

from dataclasses import dataclass


def told():
    """Said."""


def untold(): ...


def _own(): ...


@dataclass
class Made:
    size: int


class Box:
    """A box."""

    @property
    def lid(self): ...

    def open(self):
        """Open."""
'''


def test_an_undocumented_name_is_found(reference: types.ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "toyhouse"
    package.mkdir()
    (package / "__init__.py").write_text('"""A house of toys."""\n', encoding="utf-8")
    (package / "_private.py").write_text("def hidden(): ...\n", encoding="utf-8")
    (package / "room.py").write_text(ROOM, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        import toyhouse  # pyright: ignore[reportMissingImports]

        assert reference.undocumented(toyhouse) == [
            "toyhouse.room.Box.lid",
            "toyhouse.room.Made",
            "toyhouse.room.untold",
        ]
    finally:
        sys.path.remove(str(tmp_path))
        for name in [name for name in sys.modules if name.split(".")[0] == "toyhouse"]:
            del sys.modules[name]


DOCSTRING = """Say it plainly.

The equation:
    s = |w g|

Args:
    model: any
        module.
    x: a tensor.

>>> 1 + 1
2

Deviates: in nothing."""


def test_docstring_becomes_markdown(reference: types.ModuleType) -> None:
    text = reference.as_markdown(DOCSTRING)
    assert "\n\n    s = |w g|\n" in text
    assert "* `model`: any\n  module.\n" in text
    assert "* `x`: a tensor." in text
    assert "```pycon\n>>> 1 + 1\n2\n```" in text
    assert "**Deviates:** in nothing." in text


def test_methods_page_has_signature_and_paper(reference: types.ModuleType) -> None:
    from secateur._catalogue import TAGS, catalogue

    page = reference.methods_page(catalogue(), TAGS)
    for name, entry in catalogue().items():
        (call,) = [line for line in page.splitlines() if line.startswith(f"{entry.call}(")]
        missing = [option for option in inspect.signature(entry.factory).parameters if option not in call]
        assert not missing, f"{name}: its signature on the methods page lacks {missing}"
        assert f"https://arxiv.org/abs/{entry.arxiv}" in page
        assert entry.summary.replace("|", "\\|") in page
    assert all(f"*{tag}*: {meaning}" in page for tag, meaning in TAGS.items())


def test_a_value_is_described_once_on_its_rooms_page(reference: types.ModuleType) -> None:
    import secateur

    modules = reference.shown(reference.public_modules(secateur))
    pages = dict(reference.pages(secateur))
    assert set(pages) == {"api/index.md", *(f"api/{module.__name__}.md" for module in modules[1:])}
    seen = [id(value) for module in modules for value in reference.described(module).values() if callable(value)]
    assert len(seen) == len(set(seen))
    assert ":::{py:function} prune(" in pages["api/secateur.pruning.md"]
    assert "::::{py:class} Masks(" in pages["api/secateur.masks.md"]
    assert "::::{py:exception} LeakError" in pages["api/index.md"]


def test_the_front_page_of_the_reference_is_the_vocabulary(reference: types.ModuleType) -> None:
    import secateur

    page = dict(reference.pages(secateur))["api/index.md"]
    missing = [name for name in secateur.__all__ if f"`{name} <secateur." not in page]
    assert not missing, f"not on the front page of the reference: {missing}"


def test_a_constant_is_shown_as_one_writes_it(reference: types.ModuleType) -> None:
    from secateur import measures, testing

    page = reference.module_page(measures, [])
    assert "Argument name → factory of the measure that serves it by default." in page
    assert "{'weight': weight, 'noise': noise" in page
    assert " at 0x" not in page + reference.module_page(testing, [])
