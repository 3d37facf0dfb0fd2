"""Which index was which: from a smaller model back to the full one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.coupling import Coupling
from secateur.shrinking._cut import Plan, kept_indices, ratios

__all__ = ["Manifest", "UnitRecord", "manifest_of"]


@dataclass(frozen=True)
class UnitRecord:
    """What stayed of a group of units.

    Attributes:
        group: its name.
        total: how many units it had.
        kept: which stayed, by their old numbers; the place in the list is the new one.
    """

    group: str
    total: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.group}: {len(self.kept)} of {self.total}"


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a cut did, enough to say where everything was and to undo it.

    Attributes:
        shapes: old shape of every tensor that became smaller, by name.
        kept: which old indices stayed, by name and dimension; the place in the list is the new index.
        numbers: integers in the user's code, old and new value, by path.
        rescaled: weights of root mean square norms, with the factor that they were multiplied by, and whether 1 is
            added to them.
        groups: what stayed of each group of units.
        added: parameters that a fold made.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    numbers: Mapping[str, tuple[int, int]]
    rescaled: Mapping[str, tuple[float, bool]]
    groups: tuple[UnitRecord, ...]
    added: tuple[str, ...] = ()

    def undo(self, small: nn.Module, model: nn.Module) -> nn.Module:
        """Return a full-size copy of `model` with the values of `small`, and zeros where something had gone.

        Args:
            small: what `shrink` returned, trained on or not.
            model: one of the original size; only its classes, attributes and shapes matter, and what `small` lacks.

        Raises:
            SecateurError: a shape that does not fit, or a bias that a fold made and the original has no place for.
        """
        if self.added:
            raise SecateurError(
                f"`undo`: constants were folded into {self.added[0]!r}, which the original model does not have. "
                "Give its layer a bias, or shrink with fold=False."
            )
        full = copy.deepcopy(model)
        theirs = small.state_dict()
        with torch.no_grad():
            for name, tensor in full.state_dict().items():
                if name not in theirs:
                    raise SecateurError(f"`small` has no {name!r}: it is not what this manifest speaks of.")
                self._write(name, tensor, theirs[name])
        return full

    def _write(self, name: str, tensor: Tensor, mine: Tensor) -> None:
        factor, plus_one = self.rescaled.get(name, (1.0, False))
        mine = ((mine + 1) / factor - 1 if plus_one else mine / factor) if factor != 1.0 else mine
        dims = self.kept.get(name, {})
        wanted = tuple(len(dims[d]) if d in dims else n for d, n in enumerate(tensor.shape))
        if wanted != tuple(mine.shape):
            raise SecateurError(f"{name!r} must have the shape {wanted} in `small`, got {tuple(mine.shape)}.")
        if dims:
            tensor.zero_()
            grid = [
                torch.tensor(dims[d] if d in dims else range(n), device=tensor.device)
                for d, n in enumerate(tensor.shape)
            ]
            tensor[torch.meshgrid(*grid, indexing="ij")] = mine.to(tensor)
        else:
            tensor.copy_(mine)


def manifest_of(model: nn.Module, small: nn.Module, plan: Plan) -> Manifest:
    """Write down a cut.

    Args:
        model: of full size.
        small: the same after the cut.
        plan: the cut.
    """
    before = model.state_dict(keep_vars=True)
    kept = {
        name: {dim: tuple(index.tolist()) for dim, index in dims}
        for names, dims in kept_indices(plan).items()
        for name in names
    }
    numbers = {str(attribute): (attribute.value, value) for attribute, value in plan.numbers.items()}
    rescaled = {
        f"{norm.module}.{norm.weight}".lstrip("."): (ratio**0.5, norm.plus_one) for norm, ratio in ratios(plan).items()
    }
    return Manifest(
        {name: tuple(before[name].shape) for name in kept if name in before},
        kept,
        numbers,
        rescaled,
        _records(plan.coupling, plan),
        tuple(sorted(set(small.state_dict()) - set(before))),
    )


def _records(coupling: Coupling, plan: Plan) -> tuple[UnitRecord, ...]:
    found = []
    for group in coupling.groups:
        kept = [k for k, gone in enumerate(plan.gone[group.units].tolist()) if not gone]
        found.append(UnitRecord(group.name, len(group.units), tuple(kept)))
    return tuple(found)
