"""The verb: from masks or a density to a smaller model, with a proof."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.arguments import named, refuse_sparsified, require_model
from secateur._base.errors import SecateurError
from secateur.coupling import Coupling, Outputs, complete, tensors_of, trace, undisturbed
from secateur.masks import Masks, unwrap
from secateur.shrinking._choose import UnitScore, choose, l1
from secateur.shrinking._close import Closing, dead_in, masks_of
from secateur.shrinking._constants import Constants, Fold, find_constants
from secateur.shrinking._cost import cost
from secateur.shrinking._cut import Plan, cut, cut_, kept_indices, sliced
from secateur.shrinking._folding import fold_
from secateur.shrinking._manifest import manifest_of
from secateur.shrinking._optimizer import check_optimizer, continue_, drifts
from secateur.shrinking._plan import Call, plan
from secateur.shrinking._proof import Comparison, compare, difference
from secateur.shrinking._result import Certificate, Shrunk

__all__ = ["shrink"]

_MODES = ("eval", "train")


def shrink(
    model: nn.Module,
    what: Masks | float,
    example_inputs: Any,
    *,
    of: str = "units",
    score: UnitScore = l1,
    optimizer: Optimizer | None = None,
    outputs: Outputs | None = None,
    close: bool = True,
    fold: bool = True,
    modes: Sequence[str] = _MODES,
    draws: int = 1,
) -> Shrunk:
    """Make a model really smaller, and prove that it still computes what the masked one does.

    Traces what is coupled (`coupling.trace`), plans the largest cut that the model's own code accepts, cuts a copy, and
    compares it with the masked model of full size: outputs and gradients at everything kept, on the example and on
    random inputs, in eval and in train mode, in float64 where there are kernels. Where the two differ, nothing is
    changed and the error says so.

    Args:
        model: the model. It stays as it is, unless an `optimizer` is given.
        what: masks, or the density of whole units that stays, in (0, 1].
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        of: of what the density is a fraction: "units" (of each group as much), "params", "macs" or "bytes"; by the
            latter three, of each group as much as keeps the whole within the budget.
        score: what one weight is worth to the units it makes; a unit is worth the sum. By default the L1 norm.
        optimizer: shrinks the model and this optimizer in place, in the middle of a run.
        outputs: picks from what the model returns the part that must keep its shape, and is compared.
        close: whether a unit of which the masks leave no weight loses its shift and bias too, so that it can go. This
            changes what a unit behind batch norm gives out, and the certificate says by how much. False cuts only what
            is dead as it stands.
        fold: whether constants of dead units go into biases, which is exact in eval mode only.
        modes: in which the proof must hold.
        draws: how many random inputs to compare on, besides the example.

    Returns:
        `Shrunk`: model, certificate and manifest.

    Raises:
        SecateurError: a model that does not run, masks of another model, a budget out of reach, or two models that
            differ. Nothing is changed then.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small, certificate, _ = shrink(net, 0.5, torch.zeros(2, 4))
    >>> small[0].out_features, certificate.after.params
    (4, 30)
    """
    require_model(model, "shrink(model, what, example_inputs)")
    refuse_sparsified(model, "`shrink`")
    model = unwrap(model)
    call = _call_of(example_inputs)
    _check(model, what, optimizer, modes)
    coupling = trace(model, *call.inputs, kwargs=call.kwargs, outputs=outputs)
    if isinstance(what, Masks):
        cutting = _of_masks(model, what, coupling, call, outputs, close=close, fold=fold)
    else:
        made, _ = choose(model, coupling, float(what), of, score, call)
        cutting = _Cutting(made, _masked(model, masks_of(model, coupling, made.gone)), None, ())
    return _proved(model, cutting, call, outputs, modes, draws, optimizer)


@dataclass(frozen=True, eq=False)
class _Cutting:
    """A cut to be proved: the plan, the masked model, what closing did, and constants to fold."""

    plan: Plan
    masked: nn.Module
    closing: Closing | None
    folds: tuple[Fold, ...]
    masks: Masks | None = None


def _call_of(example_inputs: Any) -> Call:
    if isinstance(example_inputs, Mapping):
        return Call((), dict(example_inputs))
    return Call(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,), {})


def _check(model: nn.Module, what: object, optimizer: Optimizer | None, modes: Sequence[str]) -> None:
    if isinstance(what, Masks):
        what.check(model)
    elif not isinstance(what, int | float) or isinstance(what, bool):
        raise SecateurError(
            f"`what` must be secateur.Masks or a density in (0, 1], got {named(what)}. Masks are what secateur.prune "
            "returns, and Masks.from_zeros finds in a pruned model."
        )
    if not modes or not set(modes) <= set(_MODES):
        raise SecateurError(f"`modes` must be some of {', '.join(_MODES)}, got {tuple(modes)}.")
    if any(p.is_meta for p in model.parameters()):
        raise SecateurError(
            "`model` must have values to be proved equal, got parameters on meta. `coupling.trace` works on meta."
        )
    if optimizer is not None:
        check_optimizer(optimizer, model)


def _masked(model: nn.Module, masks: Masks) -> nn.Module:
    masked = copy.deepcopy(model)
    masks.apply_(masked)
    return masked


def _of_masks(
    model: nn.Module, masks: Masks, coupling: Coupling, call: Call, outputs: Outputs | None, *, close: bool, fold: bool
) -> _Cutting:
    """Close masks to the units that can go, find what is dead besides, and plan all of it."""
    whole = masks
    wish = np.zeros(coupling.count, bool)
    if close:
        wish = plan(model, coupling, complete(coupling, dead_in(masks, coupling)), call).gone
        whole = masks_of(model, coupling, wish, masks)
    masked = _masked(model, whole)
    constants = _constants(masked, call, outputs)
    folds: tuple[Fold, ...] = ()
    if constants is not None:
        coupling = constants.coupling
        if close:
            wish = complete(coupling, dead_in(whole, coupling))
        folded = {each.unit for each in constants.folds}
        dead = constants.dead.copy()
        if not fold:
            dead[list(folded)] = False
        wish, folds = wish | (dead & ~coupling.stays), constants.folds if fold else ()
    made = plan(model, coupling, wish, call)
    closing = _closing(model, masks, whole, coupling, wish, call, outputs) if close else None
    return _Cutting(made, masked, closing, tuple(each for each in folds if made.gone[each.unit]), whole)


def _constants(masked: nn.Module, call: Call, outputs: Outputs | None) -> Constants | None:
    """What a forward in float64 on unknown inputs finds; None where the model does not run in float64."""
    try:
        with torch.no_grad():
            return find_constants(copy.deepcopy(masked).double().cpu(), call, outputs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


def _closing(
    model: nn.Module,
    masks: Masks,
    whole: Masks,
    coupling: Coupling,
    wish: np.ndarray,
    call: Call,
    outputs: Outputs | None,
) -> Closing:
    before = {name: mask for name, mask in masks.items()}
    sizes = dict(model.named_parameters(remove_duplicate=False))
    besides = sum(
        int((~mask).sum()) - (int((~before[name]).sum()) if name in before else 0)
        for name, mask in whole.items()
        if name in sizes
    )
    found = []
    for each in (masks, whole):
        twin = _masked(model, each).eval()
        with undisturbed(model), torch.no_grad():
            out = twin(*call.inputs, **call.kwargs)
        found.append(tensors_of(out if outputs is None else outputs(out)))
    change = max((difference(a, b) for a, b in zip(*found, strict=True)), default=0.0)
    return Closing(int(wish.sum()), besides, change)


def _proved(
    model: nn.Module,
    cutting: _Cutting,
    call: Call,
    outputs: Outputs | None,
    modes: Sequence[str],
    draws: int,
    optimizer: Optimizer | None,
) -> Shrunk:
    made = cutting.plan
    small = _built(cutting)(cutting.masked)
    folded = len(cutting.folds)
    asked = [mode for mode in modes if mode == "eval" or not folded]
    comparisons = compare(cutting.masked, _built(cutting), made, call, outputs, asked, draws)
    _require(comparisons, made)
    not_claimed = [f"{folded} constants of eval mode stand in biases: train mode"] if folded else []
    not_claimed += _of_training(made, optimizer)
    certificate = Certificate(
        tuple(comparisons),
        cost(model, call),
        cost(small, call),
        cutting.closing,
        folded,
        tuple(dict.fromkeys(each.why for each in made.frozen)),
        tuple(f"{op}: {where}" for op, where in made.coupling.unknown.items()),
        tuple(not_claimed),
    )
    manifest = manifest_of(model, small, made)
    left = None if cutting.masks is None else _left(cutting.masks, made)
    if optimizer is None:
        return Shrunk(small.train(model.training), certificate, manifest, left)
    return Shrunk(_in_place(model, cutting, optimizer), certificate, manifest, left)


def _built(cutting: _Cutting) -> Callable[[nn.Module], nn.Module]:
    """What makes the smaller model of a masked one of any precision."""

    def build(masked: nn.Module) -> nn.Module:
        small = cut(masked, cutting.plan)
        fold_(small, cutting.plan, cutting.folds)
        return small

    return build


def _of_training(made: Plan, optimizer: Optimizer | None) -> list[str]:
    if optimizer is None:
        return []
    found = [text for text in (drifts(optimizer),) if text]
    if made.coupling.rescaled and any(made.gone[ids].any() for _, ids in made.coupling.rescaled):
        found.append("weights of root mean square norms were scaled: the optimizer's next step of these")
    return found


def _require(comparisons: Sequence[Comparison], made: Plan) -> None:
    wrong = next((each for each in comparisons if not each.holds), None)
    if wrong is None:
        return
    unknown = "".join(f" No rule is known for {op} ({where})." for op, where in made.coupling.unknown.items())
    raise SecateurError(
        f"`shrink`: the smaller model does not compute what the masked one does: {wrong}. Nothing was changed."
        f"{unknown} modes=('eval',) leaves train mode out of the proof; docs/shrink.md says how a rule is written."
    )


def _left(masks: Masks, made: Plan) -> Masks | None:
    """The masks among what stays: scattered zeros."""
    kept = {name: dims for names, dims in kept_indices(made).items() for name in names}
    found = {name: sliced(mask, kept[name]) if name in kept else mask for name, mask in masks.items()}
    found = {name: mask for name, mask in found.items() if not bool(mask.all())}
    return Masks(found) if found else None


def _in_place(model: nn.Module, cutting: _Cutting, optimizer: Optimizer) -> nn.Module:
    """Do to the model what was proved of its copy."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    if cutting.masks is not None:
        cutting.masks.apply_(model)
    replaced = cut_(model, cutting.plan)
    fold_(model, cutting.plan, cutting.folds)
    continue_(optimizer, cutting.plan, replaced, names)
    return model
