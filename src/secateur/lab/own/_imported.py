"""A function of one's own, by the name of its module and its own."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from secateur._base.errors import SecateurError, nearest


class NotThereError(SecateurError):
    """There is no such module, or nothing of that name in it."""


def is_own(name: str) -> bool:
    """Tell whether a name is of that kind.

    >>> is_own("nets:small"), is_own("lenet-300-100")
    (True, False)
    """
    return ":" in name


def imported(name: str) -> Any:
    """Import `package.module:factory` from the current directory or from what is installed: that runs its code.

    Raises:
        NotThereError: it is not there.
        SecateurError: its module raised as it was imported.

    >>> list(imported("collections:OrderedDict.fromkeys")("ab"))
    ['a', 'b']
    """
    place, _, function = name.partition(":")
    if not place or not function:
        raise NotThereError(f"what is your own is written package.module:factory, got {name!r}.")
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as problem:
        if problem.name is None or not (place == problem.name or place.startswith(f"{problem.name}.")):
            raise SecateurError(f"{place} needs {problem.name!r}, which is not installed here.") from problem
        raise NotThereError(f"there is no module {problem.name!r} here or among what is installed.") from None
    except Exception as problem:  # whatever a user's module raises as it is imported
        raise SecateurError(f"{place} cannot be imported: {type(problem).__name__}: {problem}") from problem
    finally:
        sys.path[:] = before
    for part in function.split("."):
        if not hasattr(found, part):
            known = vars(found) if hasattr(found, "__dict__") else []
            raise NotThereError(f"{place} has no {function!r}.{nearest(part, known)}")
        found = getattr(found, part)
    return found
