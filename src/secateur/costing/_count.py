"""Counting what a model costs, on meta where it runs there."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.costing._call import Call, call_of, require_call
from secateur.costing._cost import Cost, LayerCost
from secateur.costing._latency import latency, layer_latencies
from secateur.costing._memory import Lives
from secateur.coupling import on_meta, steps_of
from secateur.masks import unwrap

__all__ = ["cost", "count"]


def cost(model: nn.Module, example_inputs: Any, *, seconds: float | None = 0.5) -> Cost:
    """Say what a model costs: parameters, multiplications, bytes, peak memory and time, per layer and in total.

    All but the time is counted on a copy without values (meta); only where the model's code looks at values it runs
    for real. The time is measured: forwards in eval mode without gradients on the device that the model is on, with
    torch's own number of threads; medians.

    Args:
        model: the model; it is as before afterwards, and so are the random generators.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        seconds: about how long to measure for, as a whole and layer by layer; None measures nothing. A model on meta
            is not timed.

    Returns:
        The cost; `print` it for one table.

    Raises:
        SecateurError: the model does not run with these inputs, or is sparsified: its products are not counted.

    >>> import torch
    >>> found = cost(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 6, 6), seconds=None)
    >>> found.macs, found.params
    (3456, 224)
    >>> print(found)
    layer     kind    params   MACs  bytes  memory
    0         Conv2d     224  3,456    896   1,840
    1         ReLU         –      –      –   2,352
    total                224  3,456    896   2,352
    """
    require_model(model, "cost(model, example_inputs)")
    refuse_sparsified(model, "`cost`")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise SecateurError(f"`seconds` must be a time above 0, or None to measure none, got {seconds!r}.")
    model = unwrap(model)
    catch_up(model)
    call = call_of(example_inputs)
    counted = count(model, call)
    if seconds is None or any(t.is_meta for t in (*model.parameters(), *model.buffers(), *call.tensors())):
        return counted
    whole = latency(model, call, seconds / 2)
    spent = layer_latencies(model, call, seconds / 2)
    return replace(
        counted, latency=whole, layers=tuple(replace(each, seconds=spent.get(each.name)) for each in counted.layers)
    )


def count(model: nn.Module, call: Call) -> Cost:
    """Count without timing, on a meta copy, or on a real one where the model looks at values.

    Args:
        model: the model.
        call: example inputs; all is counted for one call with them.

    Raises:
        SecateurError: the model does not run with them.
    """
    twin = on_meta(model)
    steps, lives, problem = _run(twin, Call(*tree_map(_meta, (call.inputs, dict(call.kwargs)))))
    if problem is not None and not any(p.is_meta for p in model.parameters()):
        twin = copy.deepcopy(model)
        steps, lives, problem = _run(twin, call)
    require_call(model, call, problem)
    macs: Counter[str] = Counter()
    for step in steps:
        macs[step.place.module] += step.macs
    layers = tuple(_layers(twin, macs, lives.of))
    params, size = (sum(getattr(each, kind) for each in layers) for kind in ("params", "bytes"))
    told = tuple(each for each in layers if _says(each))
    return Cost(params, sum(macs.values()), size, lives.peak, None, len(steps), told)


def _meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _run(twin: nn.Module, call: Call) -> tuple[list[Any], Lives, Exception | None]:
    lives = Lives()
    lives.count([*twin.parameters(), *twin.buffers(), *call.tensors()])
    with lives.watching(twin):
        steps, problem = steps_of(twin, call.inputs, call.kwargs)
    return steps, lives, problem


def _layers(model: nn.Module, macs: Mapping[str, int], memory: Mapping[str, int]) -> list[LayerCost]:
    seen: set[int] = set()
    found = []
    for path, module in model.named_modules():
        params, size = 0, 0
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            params += tensor.numel() if isinstance(tensor, nn.Parameter) else 0
            size += tensor.numel() * tensor.itemsize
        found.append(LayerCost(path, type(module).__name__, params, macs[path], size, memory.get(path, 0)))
    return found


def _says(layer: LayerCost) -> bool:
    return bool(layer.params or layer.macs or layer.bytes or (layer.name and layer.memory))
