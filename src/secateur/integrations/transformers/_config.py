"""The config of a smaller model: numbers are tried until a model made from them is that one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.costing import call_of
from secateur.coupling import undisturbed
from secateur.shrinking import Manifest

__all__ = ["changed", "differs", "fitted", "shapes_of"]

_MOST_TRIED = 256
_MOST_VALUES = 3  # of one number
# Numbers that are no widths, whatever a division may suggest.
_NO_WIDTHS = ("layer", "vocab", "position", "token", "_id", "label", "channels", "image", "patch", "type", "depth")
# Numbers that may be unset, and follow from others then.
_UNSET = ("inner", "dim", "size")
_CLOSE = 1e-5  # in float64, where the model's own code may cast to float32
_STD = 0.5  # of weights under which a wrong scale or a wrong position cannot hide

Shapes = dict[str, tuple[int, ...]]


def fitted(
    model: nn.Module, small: nn.Module, manifest: Manifest, example_inputs: Any
) -> tuple[dict[str, Any] | None, str]:
    """Return what of the config has to change so that it makes the smaller model, or None and what stands in the way.

    Args:
        model: of full size.
        small: the smaller one.
        manifest: of the cut.
        example_inputs: on which the two have to agree.
    """
    before, after = _shapes(model), _shapes(small)
    epsilon = _epsilon(model, small, manifest)
    if epsilon is None:
        return None, "it has one ε for norms that have different ones now"
    found = "no numbers in it give the widths"
    for changes in islice(_trials(_candidates(model, before, after)), _MOST_TRIED):
        if shapes_of(type(model), changed(model.config, changes)) != after:
            continue
        changes = _needed(model, changes, after) | epsilon
        found = differs(type(model), changed(model.config, changes), small, example_inputs)
        if not found:
            return changes, ""
    return None, found


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return a config with other values."""
    trial = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(trial, name, value)
    return trial


def _needed(model: nn.Module, changes: dict[str, Any], after: Shapes) -> dict[str, Any]:
    """Leave out, one by one, changes without which the shapes are the same."""
    old = _numbers(model)
    changes = {name: value for name, value in changes.items() if value != old[name]}
    for name in list(changes):
        rest = {other: value for other, value in changes.items() if other != name}
        if shapes_of(type(model), changed(model.config, rest)) == after:
            changes = rest
    return changes


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def shapes_of(kind: type[nn.Module], config: Any) -> Shapes | None:
    """Return the shapes of all tensors of a model that a config makes; None where it makes none."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return _shapes(kind(config))
    except Exception:  # whatever a constructor says of numbers that do not go together
        return None


def _candidates(model: nn.Module, before: Shapes, after: Shapes) -> dict[str, list[Any]]:
    """For each number of the config, the new values that a width in the model suggests, likeliest first."""
    pairs = {
        (old, new)
        for name in before
        if len(before[name]) == len(after[name])
        for old, new in zip(before[name], after[name], strict=True)
        if old != new
    }
    found: dict[str, list[Any]] = {}
    for name, value in _numbers(model).items():
        if any(part in name for part in _NO_WIDTHS):
            continue
        if value is None and name.endswith(_UNSET):
            found[name] = [*sorted({new for _, new in pairs}), value]
        if type(value) is not int or value < 2:
            continue
        votes: Counter[int] = Counter()
        for old, new in pairs:
            if old % value == 0 and new * value % old == 0:
                votes[new * value // old] += 3 if old == value else 1
        if votes:
            found[name] = [new for new, _ in votes.most_common(_MOST_VALUES)] + [value]
    return found


def _numbers(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return config.to_dict()


def _trials(candidates: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*candidates.values()):
        yield dict(zip(candidates, values, strict=True))


def _epsilon(model: nn.Module, small: nn.Module, manifest: Manifest) -> dict[str, float] | None:
    """The ε of root mean square norms, where a cut changed it: one number for all; None where they do not agree."""
    epsilons = manifest.epsilons
    changed = set(epsilons.values())
    if not changed:
        return {}
    names = {path.rpartition(".")[2] for path in epsilons}
    ((old, new),) = changed if len(changed) == 1 else ((None, 0.0),)
    if old is None or any(getattr(m, name, None) == old for m in small.modules() for name in names):
        return None
    return {name: new for name, value in _numbers(model).items() if type(value) is float and value == old}


def differs(
    kind: type[nn.Module],
    config: Any,
    small: nn.Module,
    example_inputs: Any,
    names: Mapping[str, str] | None = None,
) -> str:
    """Make the model anew from the config and compare, with its weights and with large ones; return what differs.

    Args:
        kind: class of the model.
        config: to be tried.
        small: the smaller model.
        example_inputs: on which the two have to agree.
        names: new name → name in `small`, where these are not the same.
    """
    twin = copy.deepcopy(small).double()
    with undisturbed(small):
        fresh = kind(copy.deepcopy(config)).to(next(small.parameters()).device).double()
    drawn = torch.Generator().manual_seed(0)
    state = twin.state_dict()
    large = {name: _large(tensor, drawn) for name, tensor in state.items()}
    for each in (state, large):
        outs = []
        renamed = each if names is None else {new: each[old] for new, old in names.items()}
        for model, own in ((twin, each), (fresh, renamed)):
            model.load_state_dict(own)
            outs.append(_outputs(model, example_inputs))
        for one, other in zip(*outs, strict=True):
            apart = float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)) if one.numel() else 0.0
            if not apart <= _CLOSE:
                return f"one made from it computes something else (by {apart:.0e} of the largest output)"
    return ""


def _large(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return (_STD * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)).to(tensor)


@torch.no_grad()
def _outputs(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    call = call_of(example_inputs)
    with undisturbed(model):
        out = model.eval()(*map(_double, call.inputs), **{name: _double(each) for name, each in call.kwargs.items()})
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return [t.double() for t in tensors if t.is_floating_point()]


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
