"""The run-time type checker that the test suite puts around every function of the package."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from beartype import BeartypeConf, beartype
from torch.fx import Proxy

# The PEP 484 tower lets an int stand where a float is declared, as every Python user expects of `density=1`.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(thing: Any) -> Any:
    """Check every call, but those of torch.fx, which traces a model with stand-ins that are no tensors."""
    inner = _check(thing)
    if not isinstance(thing, FunctionType):
        return inner

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(value, Proxy) for value in (*args, *kwargs.values()))
        return (thing if traced else inner)(*args, **kwargs)

    return call
