"""The compiled kernels, if they can be used here, and the reason if they cannot.

Every module that has a native fast path asks this one:

    from secateur._base import door
    if door.native is not None: ...

`SECATEUR_NATIVE=0` switches the kernels off, `SECATEUR_ISA=portable|avx2|avx512` picks a lesser instruction
set than the best one of this machine; a set that this machine does not have is ignored, with a warning. Both are read
once, at the first import.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

# First, so that the kernels find torch's OpenMP library already loaded: one thread pool for both.
import torch as torch

# What the native functions take: native/bindings/module.cpp has the same number.
_INTERFACE = 7


def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("SECATEUR_NATIVE", "1").strip().lower() in {"0", "off", "no", "false"}:
        return None, "switched off by SECATEUR_NATIVE"
    try:
        module = importlib.import_module("secateur._native")
    except ModuleNotFoundError:
        return None, "not built (secateur was not installed, or there was no C++ compiler)"
    except ImportError as error:
        return None, f"built, but it does not load here: {error}"
    if getattr(module, "interface", 1) != _INTERFACE:
        why = "built from other sources than these Python files; install again (make setup)"
        warnings.warn(f"the compiled kernels are not used: they were {why}", stacklevel=2)
        return None, why
    wish = os.environ.get("SECATEUR_ISA", "").strip()
    if wish and wish not in module.supported_isas():
        known = ", ".join(module.supported_isas())
        warnings.warn(
            f"SECATEUR_ISA must be one of {known} on this machine, got {wish!r}: it is ignored, and the kernels use "
            f"{module.isa()}",
            stacklevel=2,
        )
    elif wish:
        module.use_isa(wish)
    return module, None


native: ModuleType | None
why_not: str | None
native, why_not = _load()


def isa() -> str:
    """Name of the instruction set in use: "avx512", "avx2", "portable", or "none" without the kernels."""
    return "none" if native is None else native.isa()
