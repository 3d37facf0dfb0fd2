"""PrAC: tickets found on the examples that matter to pruning, a part of the training set."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.masks import Masks, Only
from secateur.methods import magnitude
from secateur.programs.rounds import check, check_step, learned, staged, would_keep
from secateur.pruning import prune
from secateur.tickets import Stage, Staged, mask_distance, predicted, restore, shorter


def prac(
    model: nn.Module,
    *,
    train: Staged,
    steps: int,
    epoch: int,
    examples: tuple[Tensor, Tensor],
    density: float,
    rounds: int = 5,
    step: int | None = None,
    distance: float = 0.08,
    patience: int = 5,
    only: Only = None,
) -> Masks:
    """Search for a ticket on a pruning-aware critical set of examples, with a schedule scaled to it.

    The dense network is trained on all examples D, and P is the set of those that it forgot at least once or never
    learned. Each round trains on P from θ_k ⊙ m, ⌈T·|P|/|D|⌉ steps with all milestones that much earlier, until the
    mask to which it would be cut is less than `distance` from those of the last `patience` epochs; cuts; and adds to P
    the examples on which the dense network and the pruned one disagree. Afterwards the model holds θ_k ⊙ m_R.

    Args as of `late_rewinding` (k is `step`, by default after an epoch, the authors' after three) and `early_bird`.
    `train` trains on `stage.among`, numbers of examples, where given; `examples` are D as (inputs, classes). The first
    cut is that of the dense network.

    Family: lottery tickets.
    Source: Zhang et al., "Efficient lottery ticket finding: less data is more", ICML 2021, arXiv 2106.03225, §3.
    Deviates: examples are looked at once an epoch, all by the same weights, where the authors look at each as it is
    trained on; all prunable layers are cut, not convolutions alone; the distance is the share of weights exchanged.
    """
    check(density, rounds)
    check_step("epoch", epoch, steps, least=1)
    back = epoch if step is None else step
    check_step("step", back, steps)
    inputs, start, seen = examples[0], *learned(model, train, steps, epoch, back, examples)
    dense, critical, masks = predicted(model, inputs), seen.critical(), None
    for r in range(1, rounds + 1):
        method, trail = magnitude(density if r == rounds else density ** (r / rounds)), deque[Masks](maxlen=patience)
        among = critical.nonzero()[:, 0] if bool(critical.any()) else torch.arange(len(critical))
        whole = shorter(Stage(back, steps, steps), some=len(among), whole=len(critical), among=among)
        each, state = -(-epoch * len(among) // len(critical)), None
        for begin in range(whole.start, whole.stop, each) if r > 1 else ():  # the first cut is the dense network's
            part = replace(whole, start=begin, stop=min(begin + each, whole.stop), state=state)
            state = staged(train, model, masks, part)
            found = would_keep(model, method, masks, only)
            if len(trail) == patience and max(mask_distance(found, earlier) for earlier in trail) < distance:
                break
            trail.append(found)
        masks = prune(model, method, only=only, masks=masks)
        critical |= predicted(model, inputs) != dense
        restore(model, start)
        masks.apply_(model)
    assert masks is not None
    return masks
