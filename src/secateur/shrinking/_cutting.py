"""What is to be proved: a cut, and the masked model that it has to equal."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Method, Moment, Repair, all_alive
from secateur.axes.structure import Channels, channels
from secateur.costing import Call
from secateur.coupling import Coupling, Group, Ids, Outputs, complete, settle, tensors_of, undisturbed
from secateur.masks import Masks, Only, layouts, prunable
from secateur.measures import Batch, Loss, gather
from secateur.pruning import prune
from secateur.shrinking._choose import choose
from secateur.shrinking._close import Closing, dead_in, masks_of
from secateur.shrinking._constants import Constants, Fold, find_constants, fold_
from secateur.shrinking._plan import plan
from secateur.shrinking._reasons import Reasons
from secateur.shrinking.cuts import Plan, cut
from secateur.shrinking.depth import Gone
from secateur.shrinking.proof import difference
from secateur.shrinking.units import Limits, UnitScore

__all__ = ["Cutting", "masks_by", "of_density", "of_masks", "repaired", "whole"]

_FOLDED = "it always gives out the same number, which stands in the bias of what read it"
_DEAD = "nothing needs it"


@dataclass(frozen=True, eq=False)
class Cutting:
    """A cut to be proved.

    Attributes:
        plan: what goes.
        masked: the model of full size, zeros where something goes.
        closing: what closing masks to whole units did; None where whole units were chosen.
        folds: constants that go into biases.
        masks: the masks that were given, closed; None where there were none.
        reasons: what the choice was made by.
    """

    plan: Plan
    masked: nn.Module
    closing: Closing | None
    folds: tuple[Fold, ...] = ()
    masks: Masks | None = None
    reasons: Reasons = field(default_factory=Reasons)

    def build(self, masked: nn.Module) -> nn.Module:
        """Return the smaller model of the masked one in any precision."""
        small = cut(masked, self.plan)
        fold_(small, self.plan, self.folds)
        settle(small)
        return small


def of_density(
    model: nn.Module, budgets: Mapping[str, float], score: UnitScore, coupling: Coupling, call: Call, limits: Limits
) -> Cutting:
    """Choose whole units down to a density, or to several."""
    chosen = choose(model, coupling, budgets, score, call, limits)
    masked = _masked(model, masks_of(model, coupling, chosen.plan.gone))
    return Cutting(chosen.plan, masked, None, reasons=Reasons(chosen.worth, chosen.wish))


def _masked(model: nn.Module, masks: Masks) -> nn.Module:
    masked = copy.deepcopy(model)
    masks.apply_(masked)
    return masked


def of_masks(
    model: nn.Module,
    masks: Masks,
    coupling: Coupling,
    call: Call,
    outputs: Outputs | None,
    *,
    inexact: Sequence[str],
    close: bool,
    fold: bool,
    said: str,
    worth: np.ndarray | None = None,
) -> Cutting:
    """Close masks to the units that can go, find what is dead besides, and plan all of it."""
    whole = masks
    wish = np.zeros(coupling.count, bool)
    causes = []
    if close:
        causes.append((complete(coupling, dead_in(masks, coupling)), said))
        wish = plan(model, coupling, complete(coupling, dead_in(masks, coupling)), call).gone
        whole = masks_of(model, coupling, wish, masks)
    masked = _masked(model, whole)
    constants = _constants(masked, call, outputs, inexact)
    folds: tuple[Fold, ...] = ()
    if constants is not None:
        coupling = replace(constants.coupling, meta=coupling.meta)
        if close:
            wish = complete(coupling, dead_in(whole, coupling))
        folded = {each.unit for each in constants.folds}
        dead = constants.dead.copy()
        if not fold:
            dead[list(folded)] = False
        wish |= complete(coupling, wish | (dead & ~_factors(coupling)))  # heads whose values alone are dead
        wish, folds = wish | (dead & ~coupling.stays), constants.folds if fold else ()
        causes += [(coupling.mark([np.array(sorted(folded), int)]), _FOLDED), (constants.dead, _DEAD)]
    made = plan(model, coupling, wish, call)
    closing = _closing(model, masks, whole, wish & made.gone, call, outputs) if close else None
    kept = tuple(each for each in folds if made.gone[each.unit])
    return Cutting(made, masked, closing, kept, whole, Reasons(worth, wish, tuple(causes)))


def _factors(coupling: Coupling) -> np.ndarray:
    """Classes that are factors and nothing else: nobody reads them, so that none of them looks needed."""
    factors = coupling.mark([ids for product in coupling.products for ids in product.factors if ids is not None])
    return factors & ~coupling.mark([entry.ids for entry in coupling.entries])


def whole(model: nn.Module, gone: Gone, cutting: Cutting, call: Call, outputs: Outputs | None) -> Cutting:
    """Join a cut of what is left without residual blocks with their removal.

    Args:
        model: of full size.
        gone: the blocks.
        cutting: of the model without them.
        call: example inputs.
        outputs: as in `shrink`.
    """
    if not gone.blocks or gone.masks is None:
        return cutting
    masked = gone.full(model, cutting.masked)
    closing = cutting.closing
    if closing is not None:
        change = _changed(model, (_masked(model, gone.masks), copy.deepcopy(masked)), call, outputs)
        closing = replace(closing, entries=closing.entries + gone.besides, change=change)
    return replace(cutting, plan=replace(cutting.plan, removed=gone.blocks), masked=masked, closing=closing)


def _constants(masked: nn.Module, call: Call, outputs: Outputs | None, inexact: Sequence[str]) -> Constants | None:
    """What a forward in float64 on unknown inputs finds; None where the model does not run in float64."""
    try:
        with torch.no_grad():
            return find_constants(copy.deepcopy(masked).double().cpu(), call, outputs, inexact)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


def _closing(
    model: nn.Module, masks: Masks, whole: Masks, gone: np.ndarray, call: Call, outputs: Outputs | None
) -> Closing:
    before = {name: mask for name, mask in masks.items()}
    sizes = dict(model.named_parameters(remove_duplicate=False))
    besides = sum(
        int((~mask).sum()) - (int((~before[name]).sum()) if name in before else 0)
        for name, mask in whole.items()
        if name in sizes
    )
    change = _changed(model, (_masked(model, masks), _masked(model, whole)), call, outputs)
    return Closing(int(gone.sum()), besides, change)


def _changed(model: nn.Module, twins: Sequence[nn.Module], call: Call, outputs: Outputs | None) -> float:
    """The largest difference of the outputs of two copies on the example."""
    found = []
    for twin in twins:
        with undisturbed(model), torch.no_grad():
            out = twin.eval()(*call.inputs, **call.kwargs)
        found.append(tensors_of(out if outputs is None else outputs(out)))
    return max((difference(a, b) for a, b in zip(*found, strict=True)), default=0.0)


def masks_by(
    model: nn.Module,
    method: Method,
    coupling: Coupling,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    only: Only,
    limits: Limits,
) -> tuple[Masks, np.ndarray]:
    """Let a method choose among whole units, on a copy of the model; return its masks, and what it scored each class.

    As many of each group stay as the `limits` allow: the nearest number to what the method chose.

    Raises:
        SecateurError: its structure is not filters; it acts in training only; it lacks its batches.
    """
    if not (isinstance(method.structure, Channels) or method.structure.name == "filters"):
        raise SecateurError(
            f"`what`: {method.name} cuts {method.structure.name}, and shrink takes methods that cut filters, which "
            "it ties to whole units. Take its masks instead: shrink(model, prune(model, method, …), example_inputs)."
        )
    units, worth = method.structure, np.full(coupling.count, np.nan)
    if not isinstance(units, Channels):
        units = channels(coupling, reduce=units.reduce)
    assert isinstance(units, Channels)
    if units.coupling is None:
        units = replace(units, coupling=coupling)
    watched = _Watched(**{each.name: getattr(units, each.name) for each in fields(units)}, worth=worth, limits=limits)
    return prune(copy.deepcopy(model), replace(method, structure=watched), batches, loss=loss, only=only), worth


def repaired(
    model: nn.Module, masks: Masks, repair: Repair, batches: Iterable[Batch] | None, loss: Loss | None
) -> nn.Module:
    """Return a copy in which what stays makes up for whole units that go, as `reconstruct` does it for weights.

    Args:
        model: dense.
        masks: closed to whole units: biases and shifts of these are zero as well.
        repair: of the method.
        batches, loss: what the method looked at.
    """
    twin, weights = copy.deepcopy(model), prunable(model)
    params = {name: twin.get_parameter(name) for name in masks if name in weights}
    evidence = gather(twin, batches, repair.measures, params=params, loss=loss) if repair.measures else {}
    alive, turned = all_alive(params), layouts(twin, params)
    with torch.no_grad():
        masks.apply_(twin)
        of_weights = Masks({name: masks[name] for name in params}, copy=False)
        moment = Moment(0, masks.density, params, alive, evidence, layouts=turned, batches=batches, loss=loss)
        repair(twin, of_weights, moment)
        masks.apply_(twin)
    return twin


@dataclass(frozen=True)
class _Watched(Channels):
    """Channels that remember what units were scored, one number per class."""

    worth: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)
    limits: Limits = field(default_factory=Limits, compare=False)

    def pool(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pool scores, and remember them where the classes are those of the trace."""
        found = super().pool(scores)
        if self.coupling is not None and len(self.worth) == self.coupling.count:
            for name, units in self._pools(scores).items():
                self.worth[units] = found[name].cpu().numpy()
        return found

    def pool_alive(self, alive: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is alive is no score."""
        return {name: bits > 0 for name, bits in super().pool(alive).items()}

    def share(self, keep: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep as many of each pool as the limits allow, and share that."""
        pools, pooled = self._pools(scores), super().pool(scores)
        return super().share({name: self._allowed(name, pools, keep[name], pooled[name]) for name in pools}, scores)

    def _allowed(self, name: str, pools: Mapping[str, Ids], keep: Tensor, worth: Tensor) -> Tensor:
        total, chosen = len(keep), int(keep.sum())
        wanted = self.limits.keep(self._known, Group(name, pools[name]), chosen, total)
        if wanted == chosen:
            return keep
        order = sorted(range(total), key=lambda k: (not bool(keep[k]), -float(worth[k]), k))
        bits = torch.zeros_like(keep)
        bits[order[:wanted]] = True
        return bits
