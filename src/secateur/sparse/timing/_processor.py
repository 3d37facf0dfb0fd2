"""Which processor this is: what was measured on one says nothing about another."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        lines = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    family = f" family {fields['cpu family']} model {fields.get('model')}" if "cpu family" in fields else ""
    return (fields.get("model name") or platform.processor() or platform.machine()) + family
