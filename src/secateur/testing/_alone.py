"""What a method must be on its own: a value, and explained."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from secateur.testing._cases import Factory, made


def check_value(factory: Factory, *, density: float) -> None:
    """A method is a value: hashable, printable, equal to one built the same way, and ends at the density asked for."""
    method, again = (made(factory, density, full=True) for _ in range(2))
    assert method == again and hash(method) == hash(again), "two methods built alike are not equal"
    assert method.name in repr(method) and method.name in str(method), "repr and str must contain the name"
    if "density" in inspect.signature(factory).parameters:
        assert method.density == density, f"asked for density {density}, the schedule ends at {method.density}"
    else:
        assert method.density is None, f"no density was asked for, but the method says {method.density}"


def check_docstring(factory: Callable[..., Any], *, density: float) -> None:
    """The docstring names family, source with arXiv id, and where it deviates from the paper or its code."""
    text = inspect.getdoc(factory) or ""
    assert re.search(r"^Family: \w.*\.$", text, re.MULTILINE), "docstring lacks a line 'Family: at initialisation.'"
    assert re.search(r"arXiv \d{4}\.\d{4,5}", text), "docstring lacks the paper's arXiv id, as in 'arXiv 1810.02340'"
    assert "Deviates:" in text, "docstring lacks a 'Deviates:' note (write 'Deviates: none known.' if there is none)"
