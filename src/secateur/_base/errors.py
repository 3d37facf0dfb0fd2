"""What can go wrong, by name: every message says the parameter, the expectation, the value and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SecateurError(ValueError):
    """Base of all errors raised by Secateur: the input cannot be worked with, and nothing was changed."""


class MaskError(SecateurError):
    """Masks that do not fit: unknown name, wrong shape, not boolean, or a damaged mask file."""


class ScoreError(SecateurError):
    """Scores that cannot be ranked: NaN or infinite values, a wrong shape, a missing tensor."""


class LeakError(SecateurError):
    """A weight that its mask says is pruned is not zero."""


class EmptyLayerWarning(UserWarning):
    """A layer lost all of its weights: its output no longer depends on its input."""


class TiedScoresWarning(UserWarning):
    """Of weights that share the lowest score some were kept and some cut: by their index, not by the method."""


class LeftOutWarning(UserWarning):
    """Weights of the model that a prune would be expected to reach were left out."""


#: Warnings about one pruning's outcome, which stands in a recorded result: many runs at once leave them out.
OF_THE_OUTCOME = (EmptyLayerWarning, TiedScoresWarning)


class GateOptionsWarning(UserWarning):
    """A gate's parameters are trained with other options (weight decay, say) than the gate asks for."""


class EarlyFinishWarning(UserWarning):
    """A Pruner was finished before its schedule had ended."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string.

    >>> nearest("snipp", ["snip", "random"])
    " Did you mean 'snip'?"
    """
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
