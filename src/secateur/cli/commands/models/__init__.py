"""Commands for networks that are there: of runs, of files, and of one's own."""

from __future__ import annotations

from secateur.cli.commands.models import _cost, _explain, _prune, _report, _sensitivity, _show, _shrink
from secateur.cli.commands.models._report import curves_of

#: In the order in which help lists them.
MODELS = (_prune, _show, _report, _sensitivity, _shrink, _explain, _cost)

__all__ = ["MODELS", "curves_of"]
