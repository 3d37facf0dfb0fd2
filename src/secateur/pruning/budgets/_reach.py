"""A budget of effective weights: as many are kept as it takes for so many to lie on paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur._base.shards import is_sharded
from secateur.axes import Method
from secateur.masks import Masks
from secateur.measures import Batch
from secateur.selection import kept_count
from secateur.signals import Paths

_TRIES = 1000  # weights that are tried one by one where one more opens a path of several

#: Density → the masks of that density, along one order.
Chosen = Callable[[float], Masks]


def first_of(batches: Iterable[Batch] | None) -> Batch:
    """The batch whose shapes the inputs have, on which paths are looked for."""
    found = None if batches is None else next(iter(batches), None)
    if found is None:
        raise SecateurError(
            "`effective=True` looks for paths through the network and needs `batches`, of which only the shape of one "
            "is used. For example batches=[next(iter(loader))]."
        )
    return found


def refuse_unbudgeted(network: nn.Module, method: Method, *, by_blocks: bool) -> None:
    """Refuse a method whose density is not a number of single weights, and a network in parts."""
    if any(is_sharded(parameter) for parameter in network.parameters()):
        raise UnfitModelError("`effective=True` follows paths through whole weights: prune before you cut them up.")
    if by_blocks:
        raise SecateurError("`effective=True` looks for paths through the whole network, not block by block.")
    if not method.structure.name.startswith("weights") or method.density is None or method.scope.budgeted:
        raise UnfitModelError(
            f"`effective=True` is a budget of single weights, and {method.name} prunes {method.structure.name} with "
            f"scope {method.scope.name}. Take a method that keeps a density of single weights, or leave it out: "
            "secateur.signals.effective(model, masks, batch) counts what any masks leave effective."
        )


def reach(chosen: Chosen, paths: Paths, density: float, *, alive: Masks, revives: bool) -> Masks:
    """Find the masks along `chosen` of which κ = ⌊ρN + ½⌋ weights are effective, within one weight.

    By bisection over how many are kept. Where one more weight opens a path of several, weights further down the order
    that fit are taken in its place, one by one.

    Raises:
        SecateurError: what is alive has not so many effective weights.
    """
    total = alive.numel
    wanted, most = kept_count(density, total), total if revives else alive.kept

    def masks_of(count: int) -> tuple[Masks, int]:
        masks = chosen(count / total)
        return masks, paths(masks).kept

    low, high = max(1, wanted), most
    best, found = masks_of(low)
    top = masks_of(high)[1]
    if top < wanted:
        raise SecateurError(
            f"density={density:g} asks for {wanted} effective weights, and the {high} that are there to keep have "
            f"{top}. Ask for less, or let the method prune in fewer `rounds`."
        )
    while found < wanted and high - low > 1:
        middle = (low + high) // 2
        masks, count = masks_of(middle)
        if count <= wanted:
            low, best, found = middle, masks, count
        else:
            high = middle
    return best if found >= wanted - 1 else _filled(chosen, paths, wanted, best, range(high, most + 1))


def _filled(chosen: Chosen, paths: Paths, wanted: int, masks: Masks, counts: Iterable[int]) -> Masks:
    """Take further weights in the order in which they come, those alone that do not open too much."""
    found = paths(masks).kept
    for tried, more in enumerate(_one_by_one(chosen, masks, counts), 1):
        grown = masks | more
        if (count := paths(grown).kept) <= wanted:
            masks, found = grown, count
        if found >= wanted - 1:
            return masks
        if tried == _TRIES:
            break
    raise SecateurError(
        f"No choice of weights was found with {wanted} effective ones: every further weight opens a path of more. The "
        f"nearest has {found}. Ask for density={found / masks.numel:.4g}."
    )


def _one_by_one(chosen: Chosen, masks: Masks, counts: Iterable[int]) -> Iterator[Masks]:
    seen = masks
    for count in counts:
        later = chosen(count / masks.numel)
        for name in later:
            for place in (later[name] & ~seen[name]).flatten().nonzero()[:, 0].tolist():
                bits = {other: torch.zeros_like(mask) for other, mask in masks.items()}
                bits[name].view(-1)[place] = True
                yield Masks(bits, copy=False)
        seen = seen | later
