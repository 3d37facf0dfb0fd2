"""What a pruned network needs to be trained on after deployment: what may move, and old examples among the new."""

from __future__ import annotations

from secateur.programs.deployed._moving import only_these, opened
from secateur.programs.deployed._rehearsal import Rehearsal

__all__ = ["Rehearsal", "only_these", "opened"]
