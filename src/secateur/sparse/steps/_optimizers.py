"""torch optimizers as the fused step knows them: their options, read anew at every step, and their state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from secateur.sparse.programs import UnsupportedError

__all__ = ["SLOTS", "options_reader", "refuse_optimizer", "send_options", "slots_of", "steps_of"]

# Names of the state tensors, in the kernels' order.
SLOTS: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
}


def refuse_optimizer(optimizer: Optimizer, wanted: dict[int, str]) -> None:
    """Raise unless this optimizer's update is one that the kernels compute, for these parameters and no others."""
    if type(optimizer) not in SLOTS:
        raise UnsupportedError(
            f"the optimizer must be torch.optim's SGD, Adam or AdamW, got {type(optimizer).__name__}"
        )
    owned: dict[int, int] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in wanted:
                raise UnsupportedError(
                    f"the optimizer also holds a parameter of shape {tuple(parameter.shape)} that is not in the chain"
                )
            owned[id(parameter)] = 1
        for flag in ("amsgrad", "differentiable"):
            if group.get(flag):
                raise UnsupportedError(f"the optimizer has {flag}=True")
    missing = [name for key, name in wanted.items() if key not in owned]
    if missing:
        raise UnsupportedError(f"the optimizer does not hold {missing[0]!r}: frozen layers are not supported")
    if type(optimizer) is SGD:
        kinds = {group["momentum"] != 0 for group in optimizer.param_groups}
        if len(kinds) > 1:
            raise UnsupportedError("the optimizer has groups with and groups without momentum")


def options_reader(optimizer: Optimizer) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return the function that reads a parameter group's options, in the order of the native setters."""
    if type(optimizer) is SGD:
        return _sgd_options
    return partial(_adam_options, type(optimizer) is AdamW)


def _sgd_options(group: dict[str, Any]) -> tuple[Any, ...]:
    lr = group["lr"]
    return (
        lr if type(lr) is float else float(lr),
        group["momentum"],
        group["dampening"],
        group["weight_decay"],
        group["nesterov"],
        group["maximize"],
    )


def _adam_options(decoupled: bool, group: dict[str, Any]) -> tuple[Any, ...]:
    lr, (beta1, beta2) = group["lr"], group["betas"]
    return (
        lr if type(lr) is float else float(lr),
        float(beta1),
        float(beta2),
        group["eps"],
        group["weight_decay"],
        decoupled or group.get("decoupled_weight_decay", False),
        group["maximize"],
    )


def send_options(engine: Any, optimizer: Optimizer, index: int, options: tuple[Any, ...]) -> None:
    """Tell the native engine a group's options."""
    setter = engine.set_sgd if type(optimizer) is SGD else engine.set_adam
    setter(index, *options)


def send_changes(
    engine: Any,
    optimizer: Optimizer,
    options_of: Callable[[dict[str, Any]], tuple[Any, ...]],
    sent: list[tuple[Any, ...] | None],
    slots: tuple[str, ...],
) -> None:
    """Send the options of each group that differ from those `sent` before: a scheduler may have changed them.

    Raises:
        UnsupportedError: a momentum, where the engine has no `slots` for velocities.
    """
    for index, group in enumerate(optimizer.param_groups):
        options = options_of(group)
        if options != sent[index]:
            if not slots and group["momentum"] != 0:
                raise UnsupportedError(
                    f"the optimizer's momentum was 0 when the step was compiled, and is {group['momentum']} now; "
                    "compile a new step, which keeps velocities"
                )
            send_options(engine, optimizer, index, options)
            sent[index] = options


def slots_of(optimizer: Optimizer) -> tuple[str, ...]:
    """Name the state tensors that this optimizer really keeps."""
    if type(optimizer) is SGD and optimizer.param_groups[0]["momentum"] == 0:
        return ()
    return SLOTS[type(optimizer)]


def steps_of(optimizer: Optimizer, parameters: Sequence[Tensor]) -> int:
    """Return how many steps the optimizer's state has seen; SGD only knows none from some."""
    seen = set()
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        if type(optimizer) is SGD:
            seen.add(int(state.get("momentum_buffer") is not None))
        else:
            seen.add(int(state["step"]) if "step" in state else 0)
    if len(seen) > 1:
        raise UnsupportedError(f"the optimizer's parameters have taken different numbers of steps: {sorted(seen)}")
    return seen.pop()
