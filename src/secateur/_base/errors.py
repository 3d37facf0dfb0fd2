"""What can go wrong, by name: every message says the parameter, the expectation, the value and the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches

from secateur._base.text import shown


class SecateurError(ValueError):
    """Base of all errors raised by Secateur: the input cannot be worked with, and nothing was changed."""


class MaskError(SecateurError):
    """Masks that do not fit: unknown name, wrong shape, not boolean, or a damaged mask file."""


class ScoreError(SecateurError):
    """Scores that cannot be ranked: NaN or infinite values, a wrong shape, a missing tensor."""


class LeakError(SecateurError):
    """A weight that its mask says is pruned is not zero."""


class UnfitModelError(SecateurError):
    """A model without what the method is about: batch norm, convolutions, a way around a layer."""


class DerivativeError(SecateurError, RuntimeError):
    """A second derivative of what has only first ones; autograd's own errors are a `RuntimeError` too."""


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


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written: a run that is cut off now goes back to the one before."""


class MeasurementsWarning(UserWarning):
    """What was measured of this machine could not be read, and was measured again."""


_WAYS_OUT = {
    errno.ENOSPC: "Free some space there, and give the same command again: it goes on from what is written.",
    errno.EDQUOT: "Free some space there, and give the same command again: it goes on from what is written.",
    errno.EROFS: "Name a directory that can be written.",
    errno.EACCES: "Name one that you may use, or change its permissions.",
    errno.EPERM: "Name one that you may use, or change its permissions.",
    errno.ENOTDIR: "Remove the file that stands where a directory should be, or name another directory.",
    errno.EEXIST: "Remove the file that stands where a directory should be, or name another directory.",
    errno.ENOENT: "Was it removed meanwhile? Give the same command again.",
}


def told(problem: OSError, *, way_out: bool = True) -> str:
    """Say what the system refuses: the file, the reason, and the way out where there is a usual one.

    >>> told(FileExistsError(errno.EEXIST, "File exists", "runs"))
    'runs: file exists. Remove the file that stands where a directory should be, or name another directory.'
    """
    if problem.errno is None or not problem.strerror:
        return shown(problem) or type(problem).__name__
    reason = f"{problem.strerror[:1].lower()}{problem.strerror[1:]}"
    where = "" if problem.filename is None else f"{shown(problem.filename)}: "
    if not way_out:
        return f"{where}{reason}"
    return f"{where}{reason}. {_WAYS_OUT.get(problem.errno, '')}".rstrip()


def density_refusal(density: object, *, name: str = "density", got: str | None = None) -> str:
    """Say that a density is none, the same for the library and the command line.

    Whoever writes 5 means 5 % kept, and whoever writes 95 means 95 % cut: of the two the smaller is what stays.

    Args:
        density: what was given.
        name: what to call it.
        got: how it was written; None means as Python writes it.

    >>> density_refusal(5)
    '`density` must be in (0, 1], got 5. Did you mean density=0.05 (keep 5 %)?'
    >>> density_refusal(95) == density_refusal(5).replace("got 5", "got 95")
    True
    """
    written = repr(density) if got is None else got
    hint = f" It is the fraction kept: {name}=0.05 keeps 5 %."
    if isinstance(density, int | float) and 1 < density < 100 and "%" not in written:
        kept = min(density, 100 - density)
        hint = f" Did you mean {name}={kept / 100:g} (keep {kept:g} %)?"
    return f"`{name}` must be in (0, 1], got {written}.{hint}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string.

    >>> nearest("snipp", ["snip", "random"])
    " Did you mean 'snip'?"
    >>> nearest("lenet-3", ["alexnet-s", "lenet-300-100"])
    " Did you mean 'lenet-300-100'?"
    """
    known = list(known)
    close = [each for each in known if len(name) > 2 and each.startswith(name)] or get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
