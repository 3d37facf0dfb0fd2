"""What "Deconstructing lottery tickets" takes apart: which weights stay, what they become, and what the others do."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from secateur.masks import Masks

__all__ = [
    "CRITERIA",
    "Criterion",
    "SurvivorRule",
    "frozen",
    "large_final",
    "large_init",
    "large_init_large_final",
    "magnitude_increase",
    "movement",
    "reinitialised",
    "reshuffled",
    "rewound",
    "same_sign",
    "signed_constant",
    "small_final",
    "small_init",
    "small_init_small_final",
    "towards_zero",
]

#: (initial weights w_i, final weights w_f) → a number per weight; the highest stay.
Criterion = Callable[[Tensor, Tensor], Tensor]
#: (initial weights, mask, generator) → what the survivors start from.
SurvivorRule = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def large_final(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f|: the lottery ticket's own."""
    return final.abs()


def small_final(initial: Tensor, final: Tensor) -> Tensor:
    """−|w_f|."""
    return -final.abs()


def large_init(initial: Tensor, final: Tensor) -> Tensor:
    """|w_i|."""
    return initial.abs()


def small_init(initial: Tensor, final: Tensor) -> Tensor:
    """−|w_i|."""
    return -initial.abs()


def large_init_large_final(initial: Tensor, final: Tensor) -> Tensor:
    """min(α|w_f|, |w_i|), α such that both have one mean."""
    return torch.minimum(_scaled(final, initial), initial.abs())


def small_init_small_final(initial: Tensor, final: Tensor) -> Tensor:
    """−max(α|w_f|, |w_i|)."""
    return -torch.maximum(_scaled(final, initial), initial.abs())


def magnitude_increase(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f| − |w_i|."""
    return final.abs() - initial.abs()


def movement(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f − w_i|."""
    return (final - initial).abs()


def _scaled(final: Tensor, initial: Tensor) -> Tensor:
    mean = final.abs().mean()
    return final.abs() * (initial.abs().mean() / mean if float(mean) > 0 else 1.0)


def same_sign(criterion: Criterion) -> Criterion:
    """Only weights whose sign training left as it was, by `criterion`; the others come behind all of them.

    With `large_final` it is the mask that works without any training of the weights (a supermask).
    """

    def restricted(initial: Tensor, final: Tensor) -> Tensor:
        worth = criterion(initial, final)
        span = float(worth.max() - worth.min()) + 1.0
        return torch.where(initial * final >= 0, worth, worth - 2 * span)

    return restricted


#: The paper's criteria by its own names.
CRITERIA: Mapping[str, Criterion] = {
    each.__name__: each
    for each in (
        large_final, small_final, large_init, small_init, large_init_large_final, small_init_small_final,
        magnitude_increase, movement,
    )
}  # fmt: skip


# --- mask-1 actions: what survivors start from --------------------------------------------------------------------


def rewound(initial: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Their initial values: the lottery ticket's own."""
    return initial


def reinitialised(initial: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """The paper's "reinit": a permutation of the whole layer's initial values, as its code does; no new draws."""
    return _permuted(initial.flatten(), generator).reshape(initial.shape)


def reshuffled(initial: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of the initial values of those that stay."""
    found = initial.clone()
    found[mask] = _permuted(initial[mask], generator)
    return found


def signed_constant(initial: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """±σ with their initial signs, σ the standard deviation of the layer's initial values."""
    return torch.where(initial < 0, -1.0, 1.0).to(initial.dtype) * initial.std(correction=0)


def _permuted(values: Tensor, generator: torch.Generator) -> Tensor:
    return values[torch.randperm(len(values), generator=generator, device=generator.device).to(values.device)]


# --- mask-0 actions: what the others do ---------------------------------------------------------------------------


def towards_zero(initial: Tensor, final: Tensor) -> Tensor:
    """Which weights training moved towards zero: |w_f| < |w_i|. These are set to 0, and the others frozen, in the
    paper's best mask-0 action.
    """
    return final.abs() < initial.abs()


@contextmanager
def frozen(model: nn.Module, masks: Masks, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Keep the weights that `masks` cut at `values`, whatever trains inside: the mask-0 action "freeze".

    The others train. After each step of any torch optimizer the frozen ones are written back; afterwards they have
    their values still, so that such a network is not sparse.

    Args:
        model: trained inside the block.
        masks: False where a weight is frozen.
        values: the frozen weights' values, by name (entries where the mask is True are not used).

    Source: Zhou, Lan, Liu & Yosinski, arXiv 1905.01067, §4.
    """
    parameters = masks.parameters(model)
    held = {
        name: (weakref.ref(parameter), ~masks[name].to(parameter.device), values[name].to(parameter).clone())
        for name, parameter in parameters.items()
    }

    def write(*_: object) -> None:
        with torch.no_grad():
            for found, cut, value in held.values():
                parameter = found()
                if parameter is not None:
                    parameter.copy_(torch.where(cut, value, parameter))

    write()
    handle = register_optimizer_step_post_hook(write)
    try:
        yield
    finally:
        handle.remove()
