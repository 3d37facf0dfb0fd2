"""Which units are dead for every input: one forward in which NaN means "unknown" and a number means "always this".

Pointwise operations, views, pooling and padding carry NaN by themselves; only products need a rule, since
0 · unknown is 0. Borders come out right: a constant channel behind zero padding is a map, not a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.costing import Call
from secateur.coupling import Coupling, Ids, Op, Outputs, follow
from secateur.shrinking._products import CARRIES, RULES, Read, is_unknown, unknown_like
from secateur.shrinking.cuts import Plan

__all__ = ["Constants", "Fold", "find_constants", "fold_"]


@dataclass(frozen=True, eq=False)
class Fold:
    """A constant that goes into a bias: what a unit that goes brings to everything that reads it.

    Attributes:
        unit: the class of the unit.
        weight: the name of the weight that reads it.
        addition: to the outputs of that layer.
    """

    unit: int
    weight: str
    addition: Tensor


@dataclass(frozen=True, eq=False)
class Constants:
    """What a forward with unknown inputs found.

    Attributes:
        coupling: of the same forward.
        dead: classes that nothing needs, one bool per class.
        folds: what of them must go into biases.
    """

    coupling: Coupling
    dead: np.ndarray
    folds: tuple[Fold, ...]


def find_constants(model: nn.Module, call: Call, outputs: Outputs | None, inexact: Sequence[str] = ()) -> Constants:
    """Run a float64 model in eval mode on unknown inputs, and find what is always the same.

    Args:
        model: a copy in float64 that nobody else uses.
        call: example inputs; of floating point only the shapes matter.
        outputs: as in `shrink`.
        inexact: as in `shrink`.
    """
    call = Call(tree_map(unknown_like, call.inputs), tree_map(unknown_like, dict(call.kwargs)))
    run = _Run()
    run.taint((call.inputs, dict(call.kwargs)))
    coupling = follow(model, call.inputs, call.kwargs, outputs=outputs, inexact=inexact, meta=False, compute=run)
    layers = {f"{path}.weight".lstrip(".") for path, module in model.named_modules() if _takes_bias(module)}
    with torch.no_grad():
        return _verdict(coupling, run.reads, layers)


def _takes_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and "weight" in module._parameters


class _Run:
    """Computes each operation with what is known; `reads` holds what each contraction sums over."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int, Read]] = []
        self._steps = 0
        self._tainted: dict[int, Tensor] = {}

    def taint(self, tree: Any) -> None:
        """Remember integers that are made of what is unknown."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and not leaf.is_floating_point():
                self._tainted[id(leaf)] = leaf

    def __call__(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = self._compute(op, func, args, kwargs)
        self._steps += 1
        return out

    def _compute(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = op.tensors()
        unknown = any(is_unknown(tensor) for tensor in tensors)
        if any(id(tensor) in self._tainted for tensor in tensors):
            return self._spoil(op, func, args, kwargs)
        if op.name in RULES:
            out, reads = RULES[op.name](op, func, args, kwargs)
            if out is not None:
                self._note(op, reads)
                return out
        if "rand" in op.name or "bernoulli" in op.name or (unknown and not _carries(op.name, func)):
            return self._spoil(op, func, args, kwargs)
        out = func(*args, **kwargs)
        if unknown:
            self.taint(out)
        return out

    def _note(self, op: Op, reads: list[Read]) -> None:
        places = {id(tensor): k for k, tensor in reversed(list(enumerate(op.tensors())))}
        self.reads += [(self._steps, places[id(read.tensor)], read) for read in reads]

    def _spoil(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute something of the right shape, of which nothing is known."""
        if op.name.endswith("_"):
            out = func(*args, **kwargs)
        else:
            args, kwargs = tree_map(_filled, (args, kwargs))
            out = func(*args, **kwargs)
        self.taint(out)
        if op.name == "embedding":  # a column that is the same for every token
            table = op.tensor("weight")
            return torch.where((table == table[:1]).all(0), table[0], torch.nan).expand_as(out).clone()
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaf.fill_(torch.nan)
        return out


def _carries(name: str, func: Any) -> bool:
    return name in CARRIES or name.removesuffix("_") in CARRIES or torch.Tag.pointwise in func.tags


def _filled(leaf: Any) -> Any:
    return leaf.nan_to_num(1.0) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _verdict(coupling: Coupling, reads: list[tuple[int, int, Read]], layers: set[str]) -> Constants:
    """A class is dead where every contraction that reads it can do without, or with a number in its bias."""
    times = Counter(read.weight for _, _, read in reads if read.weight is not None)
    live, read_at_all = np.zeros(coupling.count, bool), np.zeros(coupling.count, bool)
    folds: list[Fold] = []
    for step, place, read in reads:
        ids = coupling.steps[step].ins[place][1][read.dim]
        if ids is None:
            continue
        read_at_all[ids] = True
        for k in np.flatnonzero(read.carries.numpy()):
            once = read.weight in layers and times[read.weight] == 1
            addition = read.fold(int(k)) if once and read.fold is not None and bool(read.known[k]) else None
            if addition is None or read.weight is None:
                live[ids[k]] = True
            else:
                folds.append(Fold(int(ids[k]), read.weight, addition.clone()))
    factors: list[Ids] = [ids for product in coupling.products for ids in product.factors if ids is not None]
    dead = (read_at_all | coupling.mark(factors)) & ~live
    return Constants(coupling, dead, tuple(folds))


def fold_(small: nn.Module, plan: Plan, folds: Sequence[Fold]) -> None:
    """Add to biases in place, making one where a layer has none.

    Args:
        small: the model that was cut.
        plan: the cut.
        folds: constants of units that went.
    """
    total: dict[str, Tensor] = {}
    for fold in folds:
        total[fold.weight] = total[fold.weight] + fold.addition if fold.weight in total else fold.addition
    for weight, addition in total.items():
        _add(small, plan, weight, addition)


def _add(small: nn.Module, plan: Plan, weight: str, addition: Tensor) -> None:
    module = small.get_submodule(weight.rpartition(".")[0])
    dim = 1 if getattr(module, "transposed", False) else 0
    made = [entry.ids for entry in plan.coupling.entries if weight in entry.names and entry.dim == dim]
    if made:
        addition = addition[torch.from_numpy(~plan.gone[made[0]]).to(addition.device)]
    like: Tensor = module.get_parameter("weight")
    with torch.no_grad():
        old = module._parameters.get("bias")
        new = addition.to(like) if old is None else old.detach() + addition.to(old)
        module.bias = nn.Parameter(new, like.requires_grad)
