"""Iterative LWC: train, cut what is small against the spread of its layer, retrain the survivors, and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import schedule, scope
from secateur.masks import Masks, Only, prunable
from secateur.measures import Batch
from secateur.methods import lwc
from secateur.pruning import prune
from secateur.retraining import local_parts, retrained
from secateur.selection import check_density


def iterative_lwc(
    model: nn.Module,
    *,
    train: Callable[[nn.Module], None],
    density: float | None = None,
    quality: float | Mapping[str, float] = 1.0,
    rounds: int = 3,
    trained: bool = False,
    local: bool = False,
    batches: Sequence[Batch] | None = None,
    only: Only = None,
) -> Masks:
    """Train, cut each layer below a multiple of its deviation, retrain what is left from its values; in rounds.

    In round r = 1…R: train with what was cut held at zero; then keep |w| ≥ q·σ_l, σ_l of the layer's surviving weights.
    With a density, q is one number for all layers, so chosen in each round that κ_r = N·ρ^{r/R} weights stay. After
    the last cut the model holds the survivors, ready to be trained again.

    Args:
        model: the network, untrained or trained.
        train: your training, from the weights that the model has; the paper retrains at a tenth of the rate.
        density: ρ, the fraction that stays after the last round; None leaves it to `quality`.
        quality: q, where no density is given: one for all layers or by name or glob (layers not named stay whole).
        rounds: R.
        trained: the model has been trained: begin with a cut.
        local: cut and retrain the fully connected layers first, with the convolutions frozen, then the other way round;
            a density is then that of each of the two.
        batches: the inputs of the first show which layer each dropout feeds, and dropout is rescaled while survivors
            are retrained (`retraining.rescaled_dropout`); None leaves dropout alone.
        only: which tensors, see `prunable`.

    Family: after training.
    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §3.
    Deviates: one q for all layers where a density is asked for (the paper sets q layer by layer by hand, from a scan:
    `scanning.sensitivity`); σ as in `methods.lwc`; rounds of equal ratio.
    """
    if density is not None:
        check_density(density)
        if quality != 1.0:
            raise SecateurError(f"`quality` follows from `density`: give one of them, got {quality} and {density}.")
    if rounds < 1:
        raise SecateurError(f"`rounds` must be at least 1, got {rounds}.")
    names, batch = list(prunable(model, only)), next(iter(batches or ()), None)
    qualities = scope.by_name(quality if isinstance(quality, Mapping) else {"*": quality}, names, "quality")
    parts = local_parts(model, names) if local else [(names, [])]
    bits: dict[str, Tensor] = {}
    for turn in range(rounds * len(parts)):
        part, _ = parts[turn % len(parts)]
        if turn or not trained:
            with retrained(model, bits, still=parts[turn % len(parts) - 1][1] if turn else [], batch=batch):
                train(model)
        cut = lwc(quality={name: qualities[name] for name in part if name in qualities})
        if density is not None:
            share = density ** ((turn // len(parts) + 1) / rounds)
            cut = replace(cut, scope=scope.relative(), schedule=schedule.once(share))
        known = {name: bits[name] for name in part if name in bits}
        bits |= prune(model, cut, only=part, masks=Masks(known) if known else None)
    return Masks({name: bits[name] for name in names})
