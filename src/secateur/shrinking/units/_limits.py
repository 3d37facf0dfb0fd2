"""Which units may be chosen, and how many of them must stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from torch import nn

from secateur._base.arguments import named
from secateur._base.errors import SecateurError, nearest
from secateur.coupling import Coupling, Group
from secateur.masks import Only, prunable

__all__ = ["Limits", "Select", "of_weights", "selected"]

#: Whose units may go: names or globs of modules and parameters, types of modules, several of these, or a function of
#: a name and a parameter.
Select = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Parameter], bool] | None


@dataclass(frozen=True, eq=False)
class Limits:
    """What a choice of units has to keep to.

    Attributes:
        free: one bool per class: whether it may be chosen; None where all may.
        multiples: the width that stays is a multiple of this, or all of it.
        minimum: at least so many units of each group stay.
    """

    free: np.ndarray | None = None
    multiples: int = 1
    minimum: int = 1

    @staticmethod
    def of(model: nn.Module, coupling: Coupling, only: Select, multiples: int, minimum: int) -> Limits:
        """Read what was asked for.

        Raises:
            SecateurError: a selector that matches nothing, or none of whose units can go; numbers below 1.
        """
        for name, value in (("multiples", multiples), ("minimum", minimum)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SecateurError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
        names = selected(model, only)
        return Limits(None if names is None else _free(model, coupling, names, only), multiples, minimum)

    def keep(self, coupling: Coupling, group: Group, wanted: int, total: int) -> int:
        """Return how many of `total` units stay where `wanted` are asked for: the nearest number that is allowed."""
        least = min(total, max(1, self.minimum))
        step = self.multiples // math.gcd(self.multiples, _width(coupling, group)) if self.multiples > 1 else 1
        if step > 1:
            wanted = max(1, (2 * wanted + step) // (2 * step)) * step
            least = -(-least // step) * step
        return min(total, max(wanted, least))


def _width(coupling: Coupling, group: Group) -> int:
    """How many indices one unit is: those of a head, where these stay as many as they are."""
    first = int(group.units[0])
    for product, classes in coupling.touching:
        if not np.isin(first, classes):
            continue
        for _, ids, _, others in product.axes():
            if first in ids:
                rest = [each for _, each, _, _ in product.axes() if each is not ids]
                fixed = all(coupling.stays[each].all() for each in rest)
                return math.prod(product.merged.shape[k] for k in others) if fixed else 1
    return 1


def selected(model: nn.Module, only: Select) -> set[str] | None:
    """Return the names of the parameters that selectors pick; None where there is no selector.

    A name or glob of a module picks all parameters below it, a type those of modules of that type.

    Raises:
        SecateurError: a selector that matches nothing, or is none.
    """
    if only is None:
        return None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if callable(only) and not isinstance(only, type):
        return {name for name, parameter in parameters.items() if only(name, parameter)}
    modules = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    found: set[str] = set()
    for each in [only] if isinstance(only, str | type) else only:
        found |= _matching(each, parameters, modules)
    return found


def of_weights(model: nn.Module, only: Select) -> Only:
    """Return what `prune` takes for a selection: a module is its parameters, a type the weights of such modules."""
    if only is None or (callable(only) and not isinstance(only, type)):
        return only
    modules = {path for path, _ in model.named_modules() if path}
    found: list[str] = []
    for each in [only] if isinstance(only, str | type) else only:
        if isinstance(each, str):
            found.append(f"{each}.*" if each in modules else each)
        else:
            names = selected(model, each) or set()
            found += [name for name in prunable(model) if name in names]
    return found


def _matching(pattern: object, parameters: Mapping[str, nn.Parameter], modules: Mapping[str, nn.Module]) -> set[str]:
    if isinstance(pattern, type) and issubclass(pattern, nn.Module):
        paths = [path for path, module in modules.items() if isinstance(module, pattern)]
        if not paths:
            kinds = ", ".join(sorted({type(module).__name__ for module in modules.values()}))
            raise SecateurError(f"`only`: no module of the model is a {pattern.__name__}. There are: {kinds}.")
        return {name for name in parameters for path in paths if name.startswith(f"{path}.")}
    if not isinstance(pattern, str):
        raise SecateurError(
            "`only` must be names or globs of modules or parameters, types of modules, or a function of a name and a "
            f"parameter, got {named(pattern)}."
        )
    hits = {name for name in parameters if fnmatchcase(name, pattern)}
    paths = [path for path in modules if fnmatchcase(path, pattern)]
    hits |= {name for name in parameters for path in paths if name.startswith(f"{path}.")}
    if not hits:
        raise SecateurError(
            f"`only`: nothing in the model matches {pattern!r}.{nearest(pattern, [*modules, *parameters])} Give names "
            'or globs of modules or parameters, as "layer3.*".'
        )
    return hits


def _free(model: nn.Module, coupling: Coupling, names: set[str], only: Select) -> np.ndarray:
    """Classes all of whose makers are selected: a unit that others write as well would go from these too."""
    wide = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.dim() > 1}
    mine, theirs = [], []
    for entry in coupling.entries:
        if not entry.reads and any(name in names for name in entry.names):
            mine.append(entry)
        elif not entry.reads and entry.names[0] in wide:
            theirs.append(entry)
    picked, others = (coupling.mark([entry.ids for entry in each]) for each in (mine, theirs))
    free = _with_factors(coupling, picked & ~others)
    if any(free[group.units].any() for group in coupling.groups):
        return free
    shared = picked & others
    if any(_with_factors(coupling, shared)[group.units].any() for group in coupling.groups):
        also = dict.fromkeys(entry.names[0] for entry in theirs if shared[entry.ids].any())
        raise SecateurError(
            f"`only`: the units of {_said(only)} are written by {', '.join(list(also)[:4])} as well. Select these too."
        )
    why = coupling.why(np.flatnonzero(picked).astype(np.int32))
    raise SecateurError(f"`only`: {_said(only)} has no units that can go{f': {why[0]}' if why else ''}.")


def _with_factors(coupling: Coupling, free: np.ndarray) -> np.ndarray:
    """Factors of products whose entries are all free are free as well."""
    found, before = free.copy(), -1
    while before != (before := int(found.sum())):
        for product in coupling.products:
            for _, ids, _, others in product.axes():
                found[ids] |= found[product.merged].all(axis=others)
    return found


def _said(only: object) -> str:
    if isinstance(only, str):
        return repr(only)
    return only.__name__ if isinstance(only, type) else "what is selected"
