"""IMP: iterative magnitude pruning, the search for lottery tickets."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Scope
from secateur.holding import hold
from secateur.masks import Masks, Only
from secateur.programs.rounds import check, rounds_of, scope_of
from secateur.tickets import Train, own_parameters, snapshot


def imp(
    model: nn.Module,
    *,
    train: Train,
    density: float,
    rounds: int = 5,
    rewind: Mapping[str, Tensor] | None = None,
    layerwise: bool = False,
    scope: Scope | None = None,
    only: Only = None,
) -> Masks:
    """Train, cut the smallest weights, go back to the start with what is left; again, until few remain.

    For r = 1…R: train from the starting values θ₀ ⊙ m_{r−1} to θ_T; keep the κ_r largest |θ_T| of those kept before,
    κ_r = N·ρ^{r/R}; put the survivors back to θ₀. Afterwards the model holds θ₀ ⊙ m_R, the ticket, ready to be trained.

    Args:
        model: the network at its starting values.
        train: your training, from the weights that the model has; what was cut is held at zero meanwhile.
        density: ρ, the fraction that stays after the last round.
        rounds: R; the paper cuts 20 % a round, which is R = ln ρ / ln 0.8. One round is the one-shot variant.
        rewind: the values to go back to, a `state_dict` (late rewinding: of a few steps into training); None: those
            that the model has now. Buffers (BN statistics) go back as well.
        layerwise: cut each layer at the same rate, and the last at half of it, as the paper does in small networks.
        scope: who competes; everywhere by default.
        only: which tensors, see `prunable`.

    Family: lottery tickets.
    Source: Frankle & Carbin, arXiv 1803.03635, §2; late rewinding: arXiv 1903.01611.
    Deviates: exact counts (both official repositories cut one more than they name); all layers together unless asked.
    """
    check(density, rounds)
    scope_of(1, scope, layerwise=layerwise)
    _check_rewind(model, rewind)
    start = snapshot(model) if rewind is None else {name: tensor.clone() for name, tensor in rewind.items()}

    def between(masks: Masks | None) -> None:
        with hold(model, masks) if masks is not None else nullcontext(), own_parameters(model):
            train(model)

    return rounds_of(
        model, between, density=density, rounds=rounds, start=start, among=scope, layerwise=layerwise, only=only
    )


def _check_rewind(model: nn.Module, rewind: Mapping[str, Tensor] | None) -> None:
    """Refuse before a round is trained what could not be loaded after it."""
    if rewind is None:
        return
    own = model.state_dict()
    odd = sorted(own.keys() ^ rewind.keys()) or [name for name in own if own[name].shape != rewind[name].shape]
    if odd:
        raise SecateurError(
            f"`rewind` must have the names and shapes of the model's state_dict, but differs at {odd[0]!r} and "
            f"{len(odd) - 1} more. Pass a state_dict() of this very model."
        )
