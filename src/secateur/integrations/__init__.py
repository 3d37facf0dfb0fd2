"""Where Secateur meets the libraries that its users train with; each is imported when it is used, never before."""

from __future__ import annotations

__all__: list[str] = []
