"""What cannot be pruned, or not in this way, in sentences that name the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur._base.arguments import require_model
from secateur._base.errors import EarlyFinishWarning, LeftOutWarning, ScoreError, SecateurError
from secateur._base.shards import is_sharded
from secateur._base.warn import warn
from secateur.axes import Method, Moment
from secateur.masks import Masks, coverage, layouts
from secateur.measures import Needs, Params, check_online

_STATE = {"step", "masks", "evidence", "explored", "generator", "trainers", "memory"}
_NOTICEABLE = 0.01  # of all parameters: position embeddings and class tokens are less


def refuse_other_arguments(model: object, method: object, call: str) -> None:
    """Refuse what is no model, and what is no method: its name, or the function that makes it."""
    if isinstance(model, Method) and isinstance(method, nn.Module):
        raise SecateurError(f"The model comes first: {call}.")
    require_model(model, call)
    if isinstance(method, Method):
        return
    if isinstance(method, str):
        got, name = f"the name {method!r}", method
    elif callable(method):
        name = getattr(method, "__name__", type(method).__name__)
        got = f"the function {name!r}, which makes one"
    else:
        got, name = f"{type(method).__name__} {method!r}", "snip"
    raise SecateurError(f"`method` must be a Method, got {got}. Write, for example, methods.{name}(density=0.05).")


def refuse_offline(method: Method) -> None:
    """Refuse a method that only acts while a network trains."""
    if method.online:
        raise SecateurError(
            f"{method.name} acts while the network trains, which prune() does not do. Write "
            f"pruner = Pruner(model, method) before your training loop and pruner.finish() after it."
        )


def refuse_in_training(method: Method, *, with_batches: bool) -> None:
    """Refuse what training cannot serve, and what would act before there is anything to act on."""
    if method.regrow is not None and method.regrow.revives:
        raise SecateurError(
            f"{method.name} brings pruned weights back at their old value, which training does not keep. "
            "Prune before training with prune(model, method, batches)."
        )
    if with_batches:
        return
    for measure in method.measures:
        check_online(measure)
    if method.score is None or method.relax is not None or method.schedule(0) is None:
        return
    start = method.regrow.start if method.regrow is not None else None
    for _, measure in (pair for score in ((start,) if start else method.scores) for pair in score.measures):
        if measure.needs is not Needs.NOTHING:
            raise ScoreError(
                f"{method.name} acts at step 0, before the first backward, when there is no {measure.name!r} to act "
                "on yet. Pass `batches` to the Pruner, or let its schedule begin at step 1 or later."
            )


def refuse_unfit(method: Method, network: nn.Module, params: Params) -> None:
    """Refuse a network, or a density, that the method's scope cannot serve, while nothing has been changed."""
    if method.scope.check is None:
        return
    shapes = Moment(0, None, params, {}, layouts=layouts(network, params)).shapes
    for density in sorted({1.0 if density is None else density for density in method.schedule.densities}):
        method.scope.check(shapes, density)


def why_not_elsewhere(method: Method, *, remembers: bool) -> str | None:
    """Say why a method's weights must be trained as they are, not by a compiled step or as a sparsified model's values.

    Args:
        method: what acts while the network trains.
        remembers: whether its evidence adds up over the gradients of all steps.
    """
    loop = "Train the model itself, in an ordinary loop with the optimizer's own step."
    if method.relax is not None:
        return f"{method.name} puts gates on the weights, which the sparse engine does not compute. {loop}"
    if method.penalty is not None:
        return f"{method.name} has weights pay a penalty at each step, which the sparse engine does not see to. {loop}"
    if method.regrow is not None and method.regrow.soft:
        return f"{method.name} trains on what it has cut, which the sparse engine does not hold. {loop}"
    if remembers:
        return (
            f"{method.name} looks at the gradients of pruned weights at every step, and the sparse engine computes "
            f"them where masks change only. {loop}"
        )
    return None


def report_left_out(model: nn.Module, params: Params) -> None:
    """Warn of weights that a prune would be expected to reach and does not: a layer left dense is no small thing."""
    found = coverage(model, params)
    weights = [one for one in found.left_out if one.weight]
    if sum(one.numel for one in weights) < _NOTICEABLE * found.total:
        return
    named = ", ".join(f"{one.name} ({one.numel:,}; {one.why})" for one in weights[:3])
    warn(
        f"{sum(one.numel for one in weights):,} weights in {len(weights)} tensors are left out and stay dense: "
        f"{named}{', …' if len(weights) > 3 else ''}; the masks cover {found.share:.1%} of the model's parameters. "
        "Bake reparametrisations in (torch.nn.utils.parametrize.remove_parametrizations, prune.remove, "
        "remove_weight_norm), name own parameters with `only`, or leave them out on purpose with `only`.",
        LeftOutWarning,
    )


def refuse_closure(name: str, closure: bool) -> None:
    """Refuse `optimizer.step(closure)` where something must happen between backward and the step."""
    if closure:
        raise SecateurError(
            f"{name} acts between backward and the optimizer's step, and optimizer.step(closure) runs both at once: "
            "its gradients would be lost. Call backward() yourself and optimizer.step() without a closure."
        )


def refuse_unscorable(params: Params, *, sharded: bool = False) -> None:
    """Refuse parameters that hold no values, and, unless told otherwise, those that are sharded over processes."""
    for name, parameter in params.items():
        if not sharded and is_sharded(parameter):
            raise SecateurError(
                f"{name!r} is sharded (a DTensor): scores of shards cannot be ranked here. Call prune(sharded_model, "
                "method), which makes one cut of single weights where they lie; or prune before fully_shard(), then "
                "hold(sharded_model, masks)."
            )
        if parameter.is_inference():
            raise SecateurError(
                f"{name!r} was made under torch.inference_mode(): it takes no gradient and no writing. Make the model "
                "outside of it, or go on with copy.deepcopy(model), called outside of it."
            )
        if parameter.is_meta:
            raise SecateurError(f"{name!r} has no data (device 'meta'). Materialise the model before pruning.")


def check_state(state: Mapping[str, Any], *, with_generator: bool) -> None:
    """Refuse what is no `state_dict` of a Pruner, and the state of a generator where there is none to take it."""
    if not {"step", "masks"} <= set(state) <= _STATE:
        more = ", ".join(map(repr, sorted(_STATE - {"step", "masks"})))
        raise SecateurError(
            f"A Pruner's state has the keys 'step' and 'masks', and {more} where it has some, got {sorted(state)}."
        )
    if "generator" in state and not with_generator:
        raise SecateurError(
            "This state holds the random state of a generator, and this Pruner has none: pass "
            "generator=torch.Generator() to the Pruner that continues."
        )


def warn_if_early(method: Method, step: int, masks: Masks) -> None:
    """Warn where training ends before the method's schedule does."""
    last = method.schedule.milestones[-1].step
    if step < last:
        wanted = "" if method.density is None else f", not {method.density:g}"
        warn(
            f"finish() after {step} optimizer steps, but the schedule of {method.name} ends at step {last}: density is "
            f"{masks.density:.3g}{wanted}.",
            EarlyFinishWarning,
        )
