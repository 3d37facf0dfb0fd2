"""Deconstructed tickets: another criterion for the mask, and another start for the survivors."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from secateur.holding import hold
from secateur.masks import Masks, Only, prunable, unwrap
from secateur.programs.rounds import check
from secateur.selection import kept_count, topk_mask
from secateur.tickets import (
    Criterion,
    SurvivorRule,
    Train,
    large_final,
    own_parameters,
    restore,
    rewound,
    snapshot,
)


def deconstructed(
    model: nn.Module,
    *,
    train: Train,
    density: float,
    rounds: int = 5,
    criterion: Criterion = large_final,
    start: SurvivorRule = rewound,
    only: Only = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Search for a ticket by any criterion of initial and final weights, and start it from anything of their signs.

    As `imp` layer by layer, κ_r = ⌊n·ρ^{r/R} + ½⌋ of the n weights of each, with M(w_i, w_f) for |w_f|; afterwards the
    survivors have the values that `start` makes of their initial ones. Every round trains from the initial values.

    Args:
        model: the network at its starting values.
        train: your training, from the weights that the model has.
        density: ρ, the fraction of each layer that stays.
        rounds: R.
        criterion: M, of `tickets.CRITERIA` or your own; the highest stay. `tickets.same_sign(large_final)` makes masks
            that are good without any training of the weights.
        start: of the survivors: `tickets.rewound`, `reinitialised`, `reshuffled`, `signed_constant` or your own.
        only: which tensors, see `prunable`.
        generator: for what draws; a fresh one seeded 0 by default.

    Family: lottery tickets.
    Source: Zhou, Lan, Liu & Yosinski, "Deconstructing lottery tickets", NeurIPS 2019, arXiv 1905.01067, §3 to §5.
    Deviates: the same rate in every layer; ties go to the lower index. What is cut is set to 0; `tickets.frozen` is
    the other mask-0 action.
    """
    check(density, rounds)
    network, drawn = unwrap(model), generator or torch.Generator().manual_seed(0)
    params, initial, masks = prunable(network, only), snapshot(network), None
    for r in range(1, rounds + 1):
        with hold(model, masks) if masks is not None else nullcontext(), own_parameters(model):
            train(model)
        share, bits = density if r == rounds else density ** (r / rounds), {}
        for name, parameter in params.items():
            worth = criterion(initial[name], parameter.detach())
            if masks is not None:
                worth = torch.where(masks[name], worth, torch.finfo(worth.dtype).min)
            bits[name] = topk_mask({name: worth}, kept_count(share, parameter.numel()))[name]
        masks = Masks(bits)
        restore(network, initial)
        masks.apply_(network)
    assert masks is not None
    with torch.no_grad():
        for name, parameter in params.items():
            parameter.copy_(start(initial[name], masks[name], drawn))
    masks.apply_(network)
    return masks
