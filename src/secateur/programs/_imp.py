"""IMP: iterative magnitude pruning, the search for lottery tickets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Scope
from secateur.holding import hold
from secateur.masks import Masks, Only
from secateur.methods import magnitude
from secateur.pruning import prune
from secateur.selection import check_density

Train = Callable[[nn.Module], None]


def imp(
    model: nn.Module,
    *,
    train: Train,
    density: float,
    rounds: int = 5,
    rewind: Mapping[str, Tensor] | None = None,
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
        rounds: R; the paper cuts 20 % a round, which is R = ln ρ / ln 0.8.
        rewind: the values to go back to, a `state_dict` (late rewinding: of a few steps into training); None: those
            that the model has now. Buffers (BN statistics) go back as well.
        scope: who competes; everywhere by default.
        only: which tensors, see `prunable`.

    Family: lottery tickets.
    Source: Frankle & Carbin, arXiv 1803.03635, §2; late rewinding: arXiv 1903.01611.
    Deviates: exact counts (both official repositories cut one more than they name); one rate for all layers (the paper
    cuts the output layer of small networks at half the rate).
    """
    check_density(density)
    if rounds < 1:
        raise SecateurError(f"`rounds` must be at least 1, got {rounds}.")
    _check_rewind(model, rewind)
    source = model.state_dict() if rewind is None else rewind
    start = {name: tensor.clone() for name, tensor in source.items()}
    masks: Masks | None = None
    for r in range(1, rounds + 1):
        with hold(model, masks) if masks is not None else nullcontext():
            train(model)
        target = density if r == rounds else density ** (r / rounds)
        masks = prune(model, magnitude(target, scope=scope), only=only, masks=masks)
        model.load_state_dict(start)
        masks.apply_(model)
    assert masks is not None
    return masks


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
