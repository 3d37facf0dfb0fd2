"""What searches for masks: a proposer, what its proposals came to, and the loop that tries them."""

from __future__ import annotations

from secateur.programs.searching._filter_agent import FilterAgent, policy_loss
from secateur.programs.searching._search import Proposer, Trial, search

__all__ = ["FilterAgent", "Proposer", "Trial", "policy_loss", "search"]
