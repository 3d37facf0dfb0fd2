"""The run-time type checker that the test suite puts around every function of the package.

jaxtyping's own decorator binds the arguments of each call and checks them twice: two thirds of the time of a test.
It is needed only where shapes stand in a signature; every other function gets beartype's check alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from torch.fx import Proxy
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

# The PEP 484 tower lets an int stand where a float is declared, as every Python user expects of `density=1`.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_with_shapes = jaxtyping.jaxtyped


def install(package: str) -> jaxtyping.ImportHookManager:
    """Check every annotation of the modules of `package` that are imported from now on."""
    jaxtyping.jaxtyped = _chosen  # what the import hook decorates with
    return jaxtyping.install_import_hook(package, "typecheck.checked")


def checked(thing: Any) -> Any:
    """Check every call, but those of torch.fx, which traces a model with stand-ins that are no tensors."""
    if not isinstance(thing, FunctionType):
        return _check(thing)
    inner = _check_of(thing)
    if inner is thing:  # no annotations
        return thing

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        traced = is_fx_symbolic_tracing() and any(isinstance(value, Proxy) for value in (*args, *kwargs.values()))
        return (thing if traced else inner)(*args, **kwargs)

    return call


def _chosen(thing: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Decorate a function, or the `__init__` of a dataclass, with the cheapest check that its annotations need."""
    if thing is None:
        return functools.partial(_chosen, typechecker=typechecker)
    if isinstance(thing, type):
        made = vars(thing).get("__init__")
        if dataclasses.is_dataclass(thing) and made is not None and not hasattr(made, "__wrapped__"):
            thing.__init__ = _chosen(made, typechecker=typechecker)
        return thing
    hints = _hints_of(thing)
    if any(_names_a_shape(hint) for hint in hints.values()):
        return _with_shapes(thing, typechecker=typechecker)
    # A twin, since the catalogue and others read annotations as they were written.
    twin = FunctionType(thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, thing.__closure__)
    twin.__kwdefaults__, twin.__annotations__, twin.__qualname__ = thing.__kwdefaults__, hints, thing.__qualname__
    twin.__module__ = thing.__module__
    return functools.update_wrapper(typechecker(twin), thing)


# A nested function is made anew by every call of the function around it, always of the same code: what is found out
# about it once holds for all. By identity, since the code that dataclasses generate is equal for different fields.
_FUNCTION = "__beartype_func"
_known_hints: dict[int, tuple[CodeType, dict[str, Any]]] = {}
_known_checks: dict[int, tuple[CodeType, Any]] = {}


def _hints_of(function: FunctionType) -> dict[str, Any]:
    """What the annotations mean; Any for those that cannot be known yet, such as the class around a method."""
    code = function.__code__
    if id(code) not in _known_hints:
        _known_hints[id(code)] = (
            code,
            {name: _resolved(hint, function) for name, hint in function.__annotations__.items()},
        )
    return _known_hints[id(code)][1]


def _resolved(written: Any, function: FunctionType) -> Any:
    alone: Any = lambda: None  # noqa: E731
    alone.__annotations__ = {"it": written}
    try:
        return get_type_hints(alone, function.__globals__, include_extras=True)["it"]
    except Exception:
        return Any


def _check_of(function: FunctionType) -> Any:
    """Return beartype's wrapper; for code that it has wrapped before, the same around another function."""
    code = function.__code__
    _, known = _known_checks.get(id(code), (code, None))
    inside = getattr(known, "__kwdefaults__", None) or {}
    if _FUNCTION not in inside:  # new, or nothing to check, or another beartype than the one we know
        made = _check(function)
        _known_checks[id(code)] = code, made
        return made
    assert isinstance(known, FunctionType)
    again = FunctionType(known.__code__, known.__globals__, known.__name__, known.__defaults__)
    again.__kwdefaults__ = {**inside, _FUNCTION: function}
    return again


def _names_a_shape(hint: Any) -> bool:
    parts = hint if isinstance(hint, list | tuple) else get_args(hint)
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(map(_names_a_shape, parts))
