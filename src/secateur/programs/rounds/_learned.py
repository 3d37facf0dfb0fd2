"""A dense training that is watched: what it was like early on, and what it forgot."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from secateur.programs.rounds._checks import staged
from secateur.tickets import Forgetting, Stage, Staged, predicted, snapshot


def learned(
    model: nn.Module, train: Staged, steps: int, epoch: int, back: int, examples: tuple[Tensor, Tensor]
) -> tuple[dict[str, Tensor], Forgetting]:
    """Train the dense network; its values at step `back`, and what it forgot."""
    inputs, classes = examples
    seen, state, start = Forgetting(len(classes)), None, snapshot(model)
    marks = sorted({*range(0, steps, epoch), back, steps})
    for begin, end in pairwise(marks):
        state = staged(train, model, None, Stage(begin, end, steps, state))
        start = snapshot(model) if end == back else start
        if end % epoch == 0 or end == steps:
            seen.look(predicted(model, inputs) == classes.cpu())
    return start, seen
