"""How the gradients of groups of examples pull together, and which weights that hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur._base.errors import SecateurError
from secateur.measures import Batch, Collector, Evidence, Measure, Params, Probe, Running, at_least_float32


class _Coupled(Running):
    """Σ_b Σ_{i<j} ∂⟨g_i, g_j⟩/∂w, g_i the gradient of group i of batch b."""

    def __init__(self, params: Params, asked: _Begin) -> None:
        super().__init__(params)
        self.asked = asked

    def update(self, probe: Probe) -> None:
        parts = grouped(probe.batch, self.asked.groups, by_label=self.asked.by_label)
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            grads = [self._gradient(replace(probe, batch=part, _grads=None, _grads_owned=False)) for part in parts]
            pairs = [(one[name] * other[name]).sum() for one, other in combinations(grads, 2) for name in one]
            self.fold(_derivative(torch.stack(pairs).sum(), probe, grads[0]), own=False)

    def _gradient(self, probe: Probe) -> Evidence:
        return probe.differentiate(probe.evaluate(temperature=self.asked.temperature), create_graph=True)


def _derivative(along: Tensor, probe: Probe, like: Evidence) -> Evidence:
    """∂/∂w of every tensor that has a gradient; zeros where that gradient does not depend on the weights."""
    found: Sequence[Tensor | None] = [None] * len(probe.params)
    if along.requires_grad:
        found = torch.autograd.grad(along, list(probe.params.values()), allow_unused=True)
    given = {name: one for name, one in zip(probe.params, found, strict=True) if one is not None}
    return {
        name: at_least_float32(given[name].detach()) if name in given else torch.zeros_like(grad)
        for name, grad in like.items()
    }


def grouped(batch: Batch | None, count: int, *, by_label: bool) -> list[Batch]:
    """Split (inputs, targets) into groups: of different labels, or each with a share of every label."""
    pair = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (None, None)
    inputs, targets = pair
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or targets.dim() != 1:
        raise SecateurError("gradient_coupling needs batches (inputs, targets) of tensors, with one class per example.")
    if len(targets) < count:
        raise SecateurError(f"`groups`={count} cannot be made of a batch of {len(targets)}: give larger batches.")
    order = targets.argsort(stable=True)
    parts = order.tensor_split(count) if by_label else [order[first::count] for first in range(count)]
    return [(inputs[part.to(inputs.device)], targets[part]) for part in parts]


@dataclass(frozen=True)
class _Begin:
    groups: int
    by_label: bool
    temperature: float

    def __call__(self, params: Params) -> Collector:
        return _Coupled(params, self)


def gradient_coupling(
    *, groups: int = 2, by_label: bool = True, temperature: float = 1.0, train: bool | None = None
) -> Measure:
    """Σ_{i<j} ∂⟨g_i, g_j⟩/∂w over groups of each batch: how each weight changes what they teach one another.

    g_i is the gradient of group i's loss, its logits divided by `temperature`. Of two equal groups it is 2 H g, twice
    what `measures.hessian_grad` gives.

    Args:
        groups: how many, at least 2.
        by_label: groups of different labels; False: each group has a share of every label.
        temperature: flattens the softmax.
        train: mode of the model while measuring.

    Source: X. Kang, github.com/kangxiatao/pruning_before_training.
    """
    if groups < 2 or not temperature > 0:
        raise SecateurError(f"`groups` must be at least 2 and `temperature` above 0, got {groups} and {temperature}.")
    return Measure("gradient_coupling", _Begin(groups, by_label, temperature), train=train)
