"""Commands that train: the demo, experiments, papers over again, and the referee."""

from __future__ import annotations

from secateur.cli.commands.lab import _demo, _paper, _referee, _run

#: In the order in which help lists them.
LAB = (_demo, _run, _paper, _referee)

__all__ = ["LAB"]
