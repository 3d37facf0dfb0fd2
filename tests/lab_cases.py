"""Methods of the tests' own in the catalogue, as the lab sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from secateur._catalogue import Entry
from secateur.lab.experiment import _method


def add_methods(
    monkeypatch: pytest.MonkeyPatch, tags: frozenset[str] = frozenset(), **factories: Callable[..., Any]
) -> None:
    """Put factories into the catalogue, by name, each with these tags."""
    known = dict(_method.catalogue())
    for name, factory in factories.items():
        words = (name, f"methods.{name}", "A method of the tests.", "any time", "nothing", "weights", "")
        known[name] = Entry(*words, tags, factory)
    monkeypatch.setattr(_method, "catalogue", lambda: known)
