"""The gallery keeps its word: each page runs as it stands, and prints what stands under its examples."""

from __future__ import annotations

import importlib.util
import re
import types
import warnings
from pathlib import Path

import pytest

GALLERY = Path(__file__).resolve().parent.parent / "docs" / "gallery"
PAGES = [page for page in sorted(GALLERY.glob("*.md")) if "\n```text\n" in page.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def outputs() -> types.ModuleType:
    """The script that writes what pages print."""
    found = importlib.util.spec_from_file_location("gallery_outputs", GALLERY / "outputs.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def words(text: str) -> str:
    """A text without its numbers, which differ between machines, and the spaces that align them."""
    return re.sub(r"[\s#]+", " ", re.sub(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?", "#", text)).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows(page: Path, outputs: types.ModuleType) -> None:
    if "<!-- needs:" not in page.read_text(encoding="utf-8") and "<!-- not run:" in page.read_text(encoding="utf-8"):
        pytest.skip("it says why it is not run")
    if missing := outputs.missing(page):
        pytest.skip(f"needs {', '.join(missing)}")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # of trainers and other libraries
        found = outputs.printed(page)
    assert found, "no example of this page shows what it prints"
    for shown, printed in found:
        assert printed.strip(), "an example prints nothing"
        assert words(printed) == words(shown), f"run docs/gallery/outputs.py {page.stem}"


def test_numbers_are_free_and_words_are_not() -> None:
    assert words("kept 1,035 of 5.4 %") == words("kept  99 of 12.25 %")
    assert words("kept 3") != words("cut 3")
