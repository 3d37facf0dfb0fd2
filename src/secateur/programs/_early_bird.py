"""Early-bird tickets: the mask settles long before the weights do, and the search may stop there."""

from __future__ import annotations

from collections import deque

from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes import Scope
from secateur.masks import Masks, Only
from secateur.methods import magnitude
from secateur.programs.rounds import check, check_step, staged, would_keep
from secateur.tickets import Stage, Staged, mask_distance


def early_bird(
    model: nn.Module,
    *,
    train: Staged,
    steps: int,
    epoch: int,
    density: float,
    distance: float = 0.1,
    patience: int = 5,
    scope: Scope | None = None,
    only: Only = None,
) -> Masks:
    """Train the dense network epoch by epoch until the mask that it would be cut to no longer changes, and cut there.

    After each epoch m_t keeps the κ largest |w|. The ticket is found when m_t is less than `distance` from each of the
    masks of the last `patience` epochs; the survivors keep the weights that they have then. If the masks do not settle
    within training, the last one is the ticket.

    Args:
        model: the network at its starting values.
        train: your training for one `tickets.Stage`; returns what its optimizer remembers.
        steps: the length of training.
        epoch: steps in an epoch, after which masks are compared.
        density: the fraction that stays.
        distance: of masks that are the same (`tickets.mask_distance`).
        patience: how many earlier masks are compared.
        scope: who competes; everywhere by default.
        only: which tensors, see `prunable`.

    Family: lottery tickets.
    Source: You et al., "Drawing early-bird tickets", ICLR 2020, arXiv 1909.11957, §3 and Algorithm 1.
    Deviates: single weights by magnitude, where the paper cuts channels by the scale of their batch norm; distance is
    the share of the kept weights that changed, which at a density of ½ is the paper's Hamming distance.
    """
    check(density, 1)
    check_step("epoch", epoch, steps, least=1)
    if patience < 1:
        raise SecateurError(f"`patience` must be at least 1, got {patience}.")
    if not 0 < distance <= 1:
        raise SecateurError(f"`distance` is a share of the kept weights, in (0, 1], got {distance:g}.")
    method, state, seen = magnitude(density, scope=scope), None, deque[Masks](maxlen=patience)
    masks: Masks | None = None
    for begin in range(0, steps, epoch):
        state = staged(train, model, None, Stage(begin, min(begin + epoch, steps), steps, state))
        masks = would_keep(model, method, None, only)
        if len(seen) == patience and max(mask_distance(masks, earlier) for earlier in seen) < distance:
            break
        seen.append(masks)
    assert masks is not None  # at least one epoch was trained
    masks.apply_(model)
    return masks
