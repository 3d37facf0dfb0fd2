"""Gradients sample by sample: what each example alone would have taught, never a mean over the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.measures import Evidence, Probe, at_least_float32, logits_of

__all__ = ["per_sample", "refuse_batch_statistics", "rows_of", "samples_in"]

_NUMBERS = 1 << 25  # of gradients that are held at once
_OF_BATCHES = (nn.modules.batchnorm._BatchNorm,)
_ONE_BY_ONE = (nn.RNNBase,)  # their kernels have no rule for several samples at once


def per_sample(probe: Probe, *, vectorise: bool = True) -> Iterator[Evidence]:
    """Yield ∂L_n/∂w of the samples n of a batch, some at a time: {parameter: (samples, *shape)}.

    L_n is the loss of a batch that holds sample n alone, so the reduction of the loss plays no part. A parameter that
    the batch as a whole does not reach is missing, not zero. Samples are taken together by `torch.func.vmap` where the
    model allows it, else one after the other. Memory: about 2²⁵ numbers, or one gradient where that is more.

    Args:
        probe: one batch; every tensor in it has one row for each sample. The model must be in eval mode as far as
            batch statistics go: with them the loss of a sample is not its own.
        vectorise: False takes samples one after the other in any case.

    Raises:
        SecateurError: a batch that cannot be split into samples, or a loss that is unfit.
        UnfitModelError: a batch norm in train mode.
    """
    count = samples_in(probe.batch)
    refuse_batch_statistics(probe.model)
    reached = list(probe.grads)  # of the whole batch; whatever is wrong with the loss is said here
    if not reached:
        return
    at_once = max(1, _NUMBERS // sum(probe.params[name].numel() for name in reached))
    for first in range(0, count, at_once):
        part = replace(probe, batch=rows_of(probe.batch, first, first + at_once), _grads=None, _grads_owned=False)
        found = _together(part, reached) if vectorise and not isinstance(probe.batch, Mapping) else None
        if found is None:
            yield from _one_by_one(part, reached)
        else:
            yield found


def samples_in(batch: Any) -> int:
    """How many samples a batch has: rows of each of its tensors.

    Raises:
        SecateurError: no tensor, a tensor without rows, or tensors of different numbers of rows.
    """
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    counts = {len(tensor) if tensor.dim() else None for tensor in tensors}
    if len(counts) == 1 and (count := counts.pop()):
        return count
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
    raise SecateurError(
        "Gradients per sample need a batch whose tensors have one row for each sample (dimension 0), inputs and "
        f"targets alike, got {shapes}. A batch of one sample has a first dimension of 1."
    )


def rows_of(batch: Any, first: int, last: int) -> Any:
    """Some samples of a batch."""
    return tree_map(lambda leaf: leaf[first:last] if isinstance(leaf, Tensor) else leaf, batch)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse batch norms that take the statistics of the batch: the loss of a sample would not be its own."""
    for name, module in model.named_modules():
        if isinstance(module, _OF_BATCHES) and (module.training or module.running_mean is None):
            raise UnfitModelError(
                f"The batch norm {name!r} takes the statistics of the batch, so that the loss of a sample depends on "
                "the others: gradients per sample need running statistics (eval mode, track_running_stats=True)."
            )


def _one_by_one(probe: Probe, reached: list[str]) -> Iterator[Evidence]:
    for n in range(samples_in(probe.batch)):
        one = replace(probe, batch=rows_of(probe.batch, n, n + 1), _grads=None, _grads_owned=False)
        grads = one.grads
        yield {
            name: (grads[name] if name in grads else at_least_float32(torch.zeros_like(probe.params[name])))[None]
            for name in reached
        }


class _LossOf(nn.Module):
    """The loss of one sample, as a module, so that `torch.func` can give it other weights."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.model = probe.model
        self._probe = probe

    def forward(self, sample: Any) -> Tensor:
        inputs, targets = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, sample)
        output = replace(self._probe, batch=(inputs, None)).run()
        loss = self._probe.loss
        return F.cross_entropy(logits_of(output), targets) if loss is None else loss(output, targets).reshape(())


def _together(probe: Probe, reached: list[str]) -> Evidence | None:
    """All samples at once; None where the model, or the loss, looks at values or has no rule for it."""
    if any(isinstance(module, _ONE_BY_ONE) for module in probe.model.modules()):
        return None
    names = {name: f"model.{name}" for name in reached}
    whole = _LossOf(probe)
    weights = {names[name]: probe.params[name].detach() for name in reached}

    def loss(values: Mapping[str, Tensor], sample: Any) -> Tensor:
        return torch.func.functional_call(whole, dict(values), (sample,))

    samples = tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else None, tuple(probe.batch or ()))
    if any(leaf is None for leaf in tree_leaves(samples)):
        return None
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no rule for it
            found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, samples)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, SecateurError):
        return None
    return {name: at_least_float32(found[full].detach()) for name, full in names.items()}
