"""What is public, and what of it has no docstring: the reference shows the one, and the build fails over the other."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

PACKAGE = "secateur"
# Not part of the Python interface: the command line has a page of its own.
NOT_REFERENCED = ("cli", "__main__")
# Rooms that are one engine in stages: what a stage offers, it offers to the next; users meet the room's own surface.
STAGED = ("sparse", "coupling", "shrinking")


def public_modules(package: ModuleType) -> list[ModuleType]:
    """Import every public module of a package, the package itself first."""
    found = [package]
    for info in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}."):
        parts = info.name.removeprefix(f"{package.__name__}.").split(".")
        if not any(part.startswith("_") for part in parts) and parts[0] not in NOT_REFERENCED:
            found.append(importlib.import_module(info.name))
    return found


def public_names(module: ModuleType) -> dict[str, object]:
    """The names a module offers: its `__all__`, else the public functions and classes that it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return {name: getattr(module, name) for name in listed}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and getattr(value, "__module__", None) == module.__name__
    }


def members(cls: type) -> dict[str, object]:
    """The public methods and properties that a class defines itself, in the order of its source.

    One that overrides a base's (`forward` of a module) and says nothing about it is no news.
    """
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod))
        and (docstring(value) or not any(hasattr(base, name) for base in cls.__mro__[1:]))
    }


def docstring(value: object) -> str:
    """The docstring somebody wrote for a value, or "": what a dataclass makes up does not count."""
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    if inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return ""
    # A constant has the docstring of its class, which says nothing about it.
    return text if needs_docstring(value) or isinstance(value, classmethod | staticmethod) else ""


def needs_docstring(value: object) -> bool:
    """Whether a public value can carry a docstring: a constant cannot, its module describes it."""
    return inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, ModuleType | property)


def undocumented(package: ModuleType) -> list[str]:
    """The public names of a package, its modules and its classes that have no docstring, sorted."""
    missing: set[str] = set()
    for module in public_modules(package):
        if not docstring(module):
            missing.add(module.__name__)
        for name, value in public_names(module).items():
            if needs_docstring(value) and not docstring(value):
                missing.add(f"{module.__name__}.{name}")
            if inspect.isclass(value) and value.__module__.startswith(package.__name__):
                own = (
                    f"{value.__module__}.{value.__name__}.{n}" for n, v in members(value).items() if not docstring(v)
                )
                missing.update(own)
    return sorted(missing)
