"""Survivors trained for a few steps, on the batches that they were chosen by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure, loss_of, moved, preserved


@dataclass(frozen=True)
class Tuned:
    """Train the survivors (see `tuned`)."""

    steps: int
    learning_rate: float
    measures: tuple[Measure, ...] = ()
    always: bool = False
    targets: bool = True

    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Zero what goes, and train what stays."""
        if moment.batches is None:
            raise SecateurError("`tuned` trains the survivors and needs `batches`: a list of (inputs, targets) pairs.")
        masks.apply_(model)
        free = {name: p for name, p in model.named_parameters() if p.requires_grad or name in masks}
        batches = list(moved(model, moment.batches))
        with preserved(model, free, train=False), torch.enable_grad():
            optimizer = torch.optim.Adam(free.values(), lr=self.learning_rate)
            for step in range(self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
                optimizer.zero_grad()
                loss_of(model, batches[step % len(batches)], moment.loss).backward()
                optimizer.step()
                masks.apply_(model)


def tuned(steps: int, *, learning_rate: float = 1e-3) -> Tuned:
    """Train the survivors, and all other parameters beside them, on the batches themselves for a few steps.

    With `prune(..., blocks=…)` each block is trained to make of what the pruned blocks before it give it what the dense
    model's block made: min ‖f′(X′) − f(X)‖², with f′ the pruned block; labels are not needed. Without blocks, on the
    loss and labels given to `prune`. Adam with a learning rate that falls along half a cosine; the batches take turns;
    no dropout. After another: `then(sweep(), tuned(200))`.

    Args:
        steps: of the optimizer, one batch each.
        learning_rate: that of the first step.

    Source: block by block as in Guo, Wu, Wang & Yan, "EBFT", arXiv 2402.12419, §3; for quantisation Li et al.,
    "BRECQ", arXiv 2102.05426, §3.2.

    >>> tuned(200).steps
    200
    """
    if steps < 1:
        raise SecateurError(f"`steps` must be at least 1, got {steps}.")
    if not 0 < learning_rate < math.inf:
        raise SecateurError(f"`learning_rate` must be positive, got {learning_rate}.")
    return Tuned(steps, learning_rate)
