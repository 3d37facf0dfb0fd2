"""From a batch to the model's output, and from the output to the loss: one rule, the same for every measure.

| batch | the model is called as | the loss is |
|---|---|---|
| `(inputs, targets)` | `model(inputs)` | `loss(output, targets)` |
| `((a, b), targets)` | `model(a, b)` | `loss(output, targets)` |
| `({"a": …, "b": …}, targets)` | `model(a=…, b=…)` | `loss(output, targets)` |
| `{"a": …, "labels": …}` | `model(a=…, labels=…)` | `loss(logits, labels)`; if None, the output's own `.loss` |

Where no `loss` is given and the output has none of its own, it is the cross-entropy of the logits: the output itself,
its `.logits`, or its `["logits"]`. Labels are handed to a model only if its `forward` takes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError

Batch = tuple[Any, ...] | list[Any] | Mapping[str, Any] | Tensor
Loss = Callable[[Any, Any], Tensor]

_LABELS = "labels"
_OWN_LOSS = "For example loss=lambda output, target: torch.nn.functional.mse_loss(output.squeeze(1), target)."
_IGNORED = -100  # the label that torch's cross-entropy leaves out


def inputs_of(batch: Batch) -> Any:
    """The inputs alone: the first of a pair, everything of a mapping, or the batch itself."""
    return batch[0] if isinstance(batch, tuple | list) else batch


def call(model: nn.Module, inputs: Any) -> Any:
    """Call the model: a mapping by keyword, several inputs one by one, anything else as the only argument."""
    if isinstance(inputs, Mapping):
        return model(**_accepted(model, inputs))
    if isinstance(inputs, tuple | list) and _is_spread(model, inputs):
        return model(*inputs)
    return model(inputs)


def loss_of(model: nn.Module, batch: Batch | None, loss: Loss | None, *, temperature: float = 1.0) -> Tensor:
    """Return the scalar loss of a batch, with its graph; logits are divided by `temperature`.

    Raises:
        SecateurError: no labels, an output that the default loss cannot read, or a loss that is no scalar of the
            weights.
    """
    if isinstance(batch, Mapping):
        return _checked(_of_mapping(model, batch, loss, temperature))
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} element(s)" if isinstance(batch, tuple | list) else "inputs alone"
        raise SecateurError(
            "A batch must be (inputs, targets) or a mapping with 'labels': this score is of the loss and needs "
            f"labels. Got a {type(batch).__name__} of {what}. Several inputs go into one: ((a, b), targets)."
        )
    inputs, targets = batch
    output = call(model, inputs)
    if loss is None:
        return _checked(cross_entropy(_warmed(logits_of(output), temperature), targets))
    return _checked(loss(output if temperature == 1.0 else _warmed(output, temperature), targets))


def _of_mapping(model: nn.Module, batch: Mapping[str, Any], loss: Loss | None, temperature: float) -> Any:
    output = call(model, batch)
    own = _field(output, "loss")
    if loss is None and own is not None:
        if temperature != 1.0:
            raise SecateurError(
                f"This score divides the logits by temperature={temperature:g}, and the model computes its loss "
                "inside, where they cannot be reached. Pass loss=(logits, labels) → scalar that does the same, or "
                "choose temperature=1."
            )
        return own
    if _LABELS not in batch:
        raise SecateurError(
            "A mapping batch needs 'labels' or a model whose output has a `.loss`: this score is of the loss. "
            f"Got only {sorted(batch)}."
        )
    if loss is None:
        return cross_entropy(_warmed(logits_of(output), temperature), batch[_LABELS])
    logits = _field(output, "logits")
    return loss(_warmed(output if logits is None else logits, temperature), batch[_LABELS])


# ------------------------------------------------------------------ calling


def _accepted(model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave labels out for a model that does not ask for them."""
    if _LABELS not in inputs:
        return inputs
    parameters = _parameters(model)
    if _LABELS in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return inputs
    return {key: value for key, value in inputs.items() if key != _LABELS}


def _is_spread(model: nn.Module, inputs: tuple[Any, ...] | list[Any]) -> bool:
    """Whether these are several arguments: a model of one argument gets a tuple or list as it is."""
    parameters = _parameters(model).values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    fits = len(required) <= len(inputs) and (variadic or len(inputs) <= len(positional))
    return fits and (variadic or len(required) > 1 or (isinstance(inputs, tuple) and len(positional) > 1))


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


# ------------------------------------------------------------------ reading outputs


def logits_of(output: Any) -> Tensor:
    """Return the logits of an output: a tensor, its `.logits`, or its `["logits"]`.

    Raises:
        SecateurError: any other output; which of several tensors is meant is for the user to say.
    """
    logits = output if isinstance(output, Tensor) else _field(output, "logits")
    if isinstance(logits, Tensor):
        return logits
    inside = f" of {len(output)}" if isinstance(output, tuple | list) else ""
    inside = f" with the keys {sorted(map(str, output))}" if isinstance(output, Mapping) else inside
    raise SecateurError(
        f"The model returns a {type(output).__name__}{inside}: expected a tensor of logits, or an output with "
        "`.logits`. Say what the loss reads with `loss`, for example "
        "loss=lambda output, target: torch.nn.functional.cross_entropy(output[0], target)."
    )


def _field(output: Any, name: str) -> Any:
    if isinstance(output, Mapping):
        return output.get(name)
    return None if isinstance(output, Tensor) else getattr(output, name, None)


def _warmed(logits: Any, temperature: float) -> Any:
    if temperature == 1.0:
        return logits
    if not isinstance(logits, Tensor):
        raise SecateurError(
            f"This score divides the logits by temperature={temperature:g}, and the model returns a "
            f"{type(logits).__name__}. Let it return a tensor, or choose temperature=1."
        )
    return logits / temperature


# ------------------------------------------------------------------ the loss


def cross_entropy(logits: Tensor, targets: Any) -> Tensor:
    """Cross-entropy, the default loss, for outputs and targets that it fits: classes in dimension 1.

    Args:
        logits: (samples, classes) or (samples, classes, positions…).
        targets: class numbers (samples, positions…), or probabilities in the shape of the logits.

    Raises:
        SecateurError: anything else; over one class it is 0 whatever the weights, so a binary output or a regression
            would be scored by nothing.
    """
    if not isinstance(targets, Tensor):
        raise SecateurError(f"The targets of a batch must be a tensor, got {type(targets).__name__}. Pass `loss`.")
    unbatched = logits.dim() == 1 and targets.dim() == 0
    if logits.dim() < 2 and not unbatched:
        raise _unfit(logits, targets, "has no dimension of classes")
    if logits.shape[0 if unbatched else 1] == 1:
        raise _unfit(logits, targets, "has one column, over which cross-entropy is 0 whatever the weights")
    if targets.is_floating_point():
        _check_probabilities(logits, targets)
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, _classes(logits, targets, unbatched))


def _classes(logits: Tensor, targets: Tensor, unbatched: bool) -> Tensor:
    expected = logits.shape[:0] if unbatched else logits.shape[:1] + logits.shape[2:]
    if targets.shape != expected:
        raise _unfit(logits, targets, f"goes with class numbers of shape {tuple(expected)}")
    if logits.dim() == 3 and logits.shape[1] == logits.shape[2]:
        raise _unfit(logits, targets, "has as many classes as positions, so which is which cannot be told")
    count = logits.shape[0 if unbatched else 1]
    wrong = (targets != _IGNORED) & ((targets < 0) | (targets >= count))
    if bool(wrong.any()):
        raise SecateurError(
            f"Labels must be class numbers in [0, {count}), for the model has {count} outputs, got "
            f"{int(targets[wrong][0])} ({int(wrong.sum())} of {targets.numel()} labels). Labels often start at 1."
        )
    return targets.long()


def _check_probabilities(logits: Tensor, targets: Tensor) -> None:
    if targets.shape != logits.shape:
        raise _unfit(logits, targets, "goes with whole class numbers, or with one probability for each output")
    sums = targets.detach().sum(1 if targets.dim() > 1 else 0)
    if bool((targets < 0).any()) or not bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-2).all()):
        raise _unfit(logits, targets, "goes with probabilities that add up to 1, which these targets are not")


def _unfit(logits: Tensor, targets: Tensor, why: str) -> SecateurError:
    return SecateurError(
        f"The default loss, cross-entropy, does not fit: an output of shape {tuple(logits.shape)} {why}; the targets "
        f"have shape {tuple(targets.shape)} and dtype {targets.dtype}. Pass `loss`. {_OWN_LOSS}"
    )


def _checked(loss: Any) -> Tensor:
    """Return the loss as a scalar that can be differentiated."""
    if not isinstance(loss, Tensor):
        raise SecateurError(
            f"`loss` must return a tensor that the weights can be differentiated by, got {type(loss).__name__}."
        )
    if loss.numel() != 1:
        raise SecateurError(f"`loss` must return a scalar, got shape {tuple(loss.shape)}. Take its mean.")
    if not torch.isfinite(loss.detach()).all():
        raise SecateurError(
            f"The loss of a scoring batch is {loss.item()}: scores would be meaningless. Check the batch."
        )
    if not loss.requires_grad:
        raise SecateurError(
            "The loss of a scoring batch does not depend on the weights: it has no graph. Likely causes: `loss` or the "
            "model detaches its output, computes it under no_grad or inference_mode, or goes through NumPy."
        )
    return loss.reshape(())
