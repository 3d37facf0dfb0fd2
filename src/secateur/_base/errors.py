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


class DerivativeError(SecateurError, RuntimeError):
    """A second derivative of what has only first ones; autograd's own errors are a `RuntimeError` too."""


class EmptyLayerWarning(UserWarning):
    """A layer lost all of its weights: its output no longer depends on its input."""


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
