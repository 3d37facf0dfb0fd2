"""The verb: from masks or a density to a smaller model, with a proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur._base.arguments import named, refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.costing import Call, call_of, count
from secateur.coupling import Outputs, settle, trace
from secateur.holding import held, hold
from secateur.masks import Masks, unwrap
from secateur.measures import Batch, Loss
from secateur.shrinking._asked import Asked
from secateur.shrinking._constants import fold_
from secateur.shrinking._cutting import Cutting, whole
from secateur.shrinking._manifest import manifest_of
from secateur.shrinking._optimizer import check_optimizer, continue_, drifts, left_of, released
from secateur.shrinking._result import Certificate, Shrunk
from secateur.shrinking._timing import timing
from secateur.shrinking.cuts import Plan, cut_
from secateur.shrinking.proof import Comparison, compare
from secateur.shrinking.units import Select, UnitScore, l1

__all__ = ["shrink"]

_MODES = ("eval", "train")


def shrink(
    model: nn.Module,
    what: Masks | Method | float | Mapping[str, float],
    example_inputs: Any,
    *,
    of: str = "units",
    score: UnitScore = l1,
    only: Select = None,
    multiples: int = 1,
    minimum: int = 1,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    outputs: Outputs | None = None,
    inexact: Sequence[str] = (),
    close: bool = True,
    fold: bool = True,
    modes: Sequence[str] = _MODES,
    draws: int = 1,
    timed: bool = False,
) -> Shrunk:
    """Make a model really smaller, and prove that it still computes what the masked one does.

    Traces what is coupled (`coupling.trace`), plans the largest cut that the model's own code accepts, cuts a copy, and
    compares it with the masked model of full size: outputs and gradients at everything kept, on the example and on
    random inputs, in eval and in train mode, in float64 where there are kernels. Where the two differ, nothing is
    changed and the error says so.

    Args:
        model: the model. It stays as it is, unless an `optimizer` is given.
        what: masks; a method that ranks filters, such as `methods.nisp(0.5)`, which then chooses among whole units, or
            whole residual blocks, such as `methods.depth(0.5)`; the density of whole units that stays, in (0, 1]; or
            several densities, `{"params": 0.5, "macs": 0.4}`, all of which hold.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        of: of what the density is a fraction: "units" (of each group as much), or "params", "macs", "bytes", "memory"
            (the peak of a forward, as `cost` computes it) or "ms" (measured here, in turns with the model of full
            size): of each group as much as keeps the whole within the budget.
        score: what one weight is worth to the units it makes; a unit is worth the sum. By default the L1 norm.
        only: whose units may go: names or globs of modules or parameters, types of modules, several of these, or a
            function of a name and a parameter. A unit that others write as well stays, unless they are selected too.
        multiples: of each group a multiple of this stays, or all of it: widths of 8 or 16 are faster on most devices.
        minimum: at least so many units of each group stay.
        batches, loss: what the method looks at, as in `prune`.
        optimizer: shrinks the model and this optimizer in place, in the middle of a run.
        outputs: picks from what the model returns the part that must keep its shape, and is compared.
        inexact: what may go although it changes the function, "layer_norm" or "attention_scale"; the certificate says
            by how much.
        close: whether a unit of which the masks leave no weight loses its shift and bias too, so that it can go. This
            changes what a unit behind batch norm gives out, and the certificate says by how much. False cuts only what
            is dead as it stands.
        fold: whether constants of dead units go into biases, which is exact in eval mode only.
        modes: in which the proof must hold.
        draws: how many random inputs to compare on, besides the example.
        timed: whether to measure, in turns, how long a forward on the example takes before and after, for about a
            second: `certificate.timing`. Where it is no faster, that says why.

    Returns:
        `Shrunk`: model, certificate and manifest.

    Raises:
        SecateurError: a model that does not run, masks of another model, a budget out of reach, or two models that
            differ. Nothing is changed then.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small, certificate, _ = shrink(net, 0.5, torch.zeros(2, 4))
    >>> small[0].out_features, certificate.after.params
    (4, 30)
    >>> shrink(net, {"params": 0.6, "macs": 0.5}, torch.zeros(2, 4)).certificate.after.macs
    48
    """
    require_model(model, "shrink(model, what, example_inputs)")
    refuse_sparsified(model, "`shrink`")
    model = unwrap(model)
    catch_up(model)
    call = call_of(example_inputs)
    _check(model, what, optimizer, modes)
    asked = Asked(what, of, score, only, multiples, minimum, batches, loss)
    asked.check()
    free = released(model)
    slim, gone, asked = asked.without_blocks(free, call, close=close)
    coupling = trace(slim, *call.inputs, kwargs=call.kwargs, outputs=outputs, inexact=inexact)
    fold = fold and optimizer is None  # a constant of eval mode is none while the model trains
    cutting = asked.cutting(slim, coupling, call, outputs, inexact, close=close, fold=fold)
    cutting = whole(free, gone, cutting, call, outputs)
    certificate = _proved(free, cutting, call, outputs, modes, draws, optimizer, timed=timed)
    return _handed_back(model, free, cutting, certificate, optimizer)


def _check(model: nn.Module, what: object, optimizer: Optimizer | None, modes: Sequence[str]) -> None:
    if isinstance(what, Masks):
        what.check(model)
    elif not isinstance(what, int | float | Method | Mapping) or isinstance(what, bool):
        raise SecateurError(
            f"`what` must be secateur.Masks, a Method, a density in (0, 1] or several by name, got {named(what)}. "
            "Masks are what secateur.prune returns, and Masks.from_zeros finds in a pruned model."
        )
    if not modes or not set(modes) <= set(_MODES):
        raise SecateurError(f"`modes` must be some of {', '.join(_MODES)}, got {tuple(modes)}.")
    if any(p.is_meta for p in model.parameters()):
        raise SecateurError(
            "`model` must have values to be proved equal, got parameters on meta. `coupling.trace` works on meta."
        )
    if optimizer is not None:
        check_optimizer(optimizer, model)


def _proved(
    model: nn.Module,
    cutting: Cutting,
    call: Call,
    outputs: Outputs | None,
    modes: Sequence[str],
    draws: int,
    optimizer: Optimizer | None,
    *,
    timed: bool,
) -> Certificate:
    made = cutting.plan
    folded = len(cutting.folds)
    asked = [mode for mode in modes if mode == "eval" or not folded]
    comparisons = compare(cutting.masked, cutting.build, made, call, outputs, asked, draws)
    waived = {kind for kind, ids in made.coupling.waived if made.gone[ids].any()}
    if not waived:
        _require(comparisons, made)
    not_claimed = [f"{folded} constants of eval mode stand in biases: train mode"] if folded else []
    not_claimed += _of_training(made, optimizer)
    small = cutting.build(cutting.masked)
    before, after = count(model, call), count(small, call)
    return Certificate(
        tuple(comparisons),
        before,
        after,
        cutting.closing,
        folded,
        tuple(dict.fromkeys(each.why for each in made.frozen)),
        tuple(f"{op}: {where}" for op, where in made.coupling.unknown.items()),
        tuple(sorted(waived)),
        tuple(not_claimed),
        timing(model, small, call, before, after) if timed else None,
        tuple(map(str, made.removed)),
    )


def _handed_back(
    model: nn.Module, free: nn.Module, cutting: Cutting, certificate: Certificate, optimizer: Optimizer | None
) -> Shrunk:
    """Cut for good: a copy, or with an optimizer the model itself; what was held is held again."""
    made, small = cutting.plan, cutting.build(cutting.masked)
    manifest = manifest_of(free, small, made, cutting.reasons)
    left = None if cutting.masks is None else left_of(cutting.masks, made)
    before = [each.masks for each in held(model)]
    if optimizer is not None:
        small = _in_place(model, cutting, optimizer)
    for masks in before:
        if (still := left_of(masks, made)) is not None:
            hold(small, still)
    return Shrunk(small, certificate, manifest, left)


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


def _in_place(model: nn.Module, cutting: Cutting, optimizer: Optimizer) -> nn.Module:
    """Do to the model what was proved of its copy."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for each in held(model):
        each.release()
    if cutting.masks is not None:
        cutting.masks.apply_(model)
    replaced = cut_(model, cutting.plan)
    fold_(model, cutting.plan, cutting.folds)
    settle(model)
    continue_(optimizer, cutting.plan, replaced, names)
    return model
