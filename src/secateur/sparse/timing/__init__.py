"""Timing side by side, and what was measured once on this machine."""

from secateur.sparse.timing._pace import Pace, Paces
from secateur.sparse.timing._processor import processor
from secateur.sparse.timing._store import cache_file, remembered
from secateur.sparse.timing._verdicts import forget, remembered_verdict, verdicts_here
from secateur.turns import Verdict, decide, interleaved, undisturbed

__all__ = [
    "Pace",
    "Paces",
    "Verdict",
    "cache_file",
    "decide",
    "forget",
    "interleaved",
    "processor",
    "remembered",
    "remembered_verdict",
    "undisturbed",
    "verdicts_here",
]
