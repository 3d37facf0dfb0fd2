"""Ways of computing the same, timed in turns, so that a busy moment of the machine hits all alike."""

from secateur.turns._decide import Verdict, decide, verdict_of
from secateur.turns._timing import interleaved
from secateur.turns._undisturbed import undisturbed

__all__ = ["Verdict", "decide", "interleaved", "undisturbed", "verdict_of"]
