"""The command line's words: how they are parsed, what they mean as values, and what is written back."""

from __future__ import annotations

from secateur.cli.text import console, values
from secateur.cli.text._parser import Parser, UsageError
from secateur.cli.text.console import Table

__all__ = ["Parser", "Table", "UsageError", "console", "values"]
