"""What is named `package.module:factory`: imported because a command line said so, never because a file did."""

from __future__ import annotations

from secateur.lab.own._imported import NotThereError, imported, is_own

__all__ = ["NotThereError", "imported", "is_own"]
