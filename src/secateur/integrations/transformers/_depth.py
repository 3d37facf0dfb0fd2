"""Layers out of a model of transformers, and a config that says how many are left."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from secateur.coupling import lies_in, undisturbed
from secateur.integrations.transformers._config import changed, differs, shapes_of
from secateur.shrinking import Manifest

__all__ = ["shallower"]


@dataclass(frozen=True)
class _Layers:
    """A list of layers, how many it had, and which of them stay."""

    path: str
    before: int
    kept: tuple[int, ...]


def shallower(
    model: nn.Module, small: nn.Module, manifest: Manifest, example_inputs: Any
) -> tuple[nn.Module | None, str]:
    """Return the model that a config with fewer layers makes, with the weights of those that stayed; or what is wrong.

    Args:
        model: of full size.
        small: shortcuts stand where layers went.
        manifest: of the cut.
        example_inputs: on which the two have to agree.
    """
    removed = manifest.removed
    lists = [
        _Layers(path, len(each), tuple(k for k in range(len(each)) if not lies_in(f"{path}.{k}", removed)))
        for path, each in model.named_modules()
        if isinstance(each, nn.ModuleList) and any(lies_in(f"{path}.{k}", removed) for k in range(len(each)))
    ]
    gone = sum(each.before - len(each.kept) for each in lists)
    if gone < len(removed):
        odd = next(block.path for block in removed if block.path.rpartition(".")[0] not in {e.path for e in lists})
        return None, f"{odd} is no entry of a list of layers"
    names = {_renumbered(name, lists): name for name in small.state_dict()}
    wanted = {new: tuple(small.state_dict()[old].shape) for new, old in names.items()}
    found = "no number in it says how many layers there are"
    for changes in _trials(model.config, lists):
        config = changed(model.config, changes)
        if shapes_of(type(model), config) != wanted:
            continue
        found = differs(type(model), config, small, example_inputs, names)
        if not found:
            return _made(model, config, small, names), ""
    return None, found


def _renumbered(name: str, lists: list[_Layers]) -> str:
    for each in lists:
        if name.startswith(f"{each.path}."):
            number, dot, rest = name.removeprefix(f"{each.path}.").partition(".")
            return f"{each.path}.{each.kept.index(int(number))}{dot}{rest}"
    return name


def _trials(config: Any, lists: list[_Layers]) -> list[dict[str, Any]]:
    """Changes to try: for each list of layers, each number of the config that is as large; lists as long follow."""
    values: dict[str, Any] = config.to_dict()
    counts = [[name for name, value in values.items() if type(value) is int and value == e.before] for e in lists]
    found = []
    for names in product(*counts):
        changes: dict[str, Any] = {}
        for each, name in zip(lists, names, strict=True):
            changes[name] = len(each.kept)
            for other, value in values.items():
                if isinstance(value, list | tuple) and len(value) == each.before:
                    changes[other] = [value[k] for k in each.kept]
        found.append(changes)
    return found


def _made(model: nn.Module, config: Any, small: nn.Module, names: Mapping[str, str]) -> nn.Module:
    first = next(small.parameters())
    with undisturbed(model):
        fresh = type(model)(copy.deepcopy(config)).to(device=first.device, dtype=first.dtype)
    state: dict[str, Tensor] = small.state_dict()
    fresh.load_state_dict({new: state[old] for new, old in names.items()})
    trains = dict(small.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            parameter.requires_grad_(trains[names[name]].requires_grad if names[name] in trains else True)
    if hasattr(model, "generation_config"):
        fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh.train(model.training)
