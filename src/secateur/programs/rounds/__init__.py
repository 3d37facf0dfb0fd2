"""What searches for tickets share: checks, stages with what was cut held at zero, and rounds of both."""

from __future__ import annotations

from secateur.programs.rounds._checks import check, check_step, scope_of, staged
from secateur.programs.rounds._learned import learned
from secateur.programs.rounds._rounds import retrained, rounds_of, share_of_macs, would_keep

__all__ = [
    "check",
    "check_step",
    "learned",
    "retrained",
    "rounds_of",
    "scope_of",
    "share_of_macs",
    "staged",
    "would_keep",
]
