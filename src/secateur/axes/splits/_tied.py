"""Units that several tensors make together: whole channels of a coupled model, and whole residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import UnfitModelError
from secateur.coupling import Coupling, Group, Ids, ResidualBlock, lies_in

__all__ = ["ALSO", "block_tensors", "pooled_blocks", "rows_made", "shared_blocks", "unit_pools"]

ALSO = ", group "


def rows_made(coupling: Coupling, scores: Mapping[str, Tensor]) -> list[tuple[str, Ids]]:
    """The tensors whose filters make units, with the class of each filter."""
    found: dict[str, Ids] = {}
    for entry in coupling.entries:
        name = next((each for each in entry.names if each in scores), None)
        if name is not None and not entry.reads and len(entry.ids) == len(scores[name]):
            found.setdefault(name, entry.ids)
    return list(found.items())


def unit_pools(
    coupling: Coupling, which: Callable[[Group], bool] | None, scores: Mapping[str, Tensor], said: str
) -> dict[str, Ids]:
    """Units that compete, by the name of the first tensor that makes them; of a product's, its entries' first.

    Groups do not compete with one another: of heads and the places in them, each keeps its share.

    Args:
        coupling: what is tied to what.
        which: which groups compete; None is all.
        scores: of the tensors that make them.
        said: what the units are called.
    """
    pools: dict[str, Ids] = {}
    made = rows_made(coupling, scores)
    first = _first_makers(coupling, [ids for _, ids in made])
    for group in coupling.groups:
        place = int(first[group.units].min())
        if place < len(made) and (which is None or which(group)):
            name = made[place][0]
            also = sum(known.partition(ALSO)[0] == name for known in pools)
            pools[f"{name}{ALSO}{also + 1}" if also else name] = group.units
    if not pools:
        raise UnfitModelError(f"the model has no units of these weights for {said} to choose among.")
    return pools


def _first_makers(coupling: Coupling, made: Sequence[Ids]) -> np.ndarray:
    """Of each class, the number of the first tensor that makes it, or makes an entry of which it is a factor."""
    first = np.full(coupling.count, len(made))
    for number, ids in reversed(list(enumerate(made))):
        first[ids] = number
    changed = True
    while changed:
        before = first.copy()
        for product in coupling.products:
            for _, ids, _, others in product.axes():
                np.minimum.at(first, ids, first[product.merged].min(axis=others))
        changed = bool((first != before).any())
    return first


def pooled_blocks(blocks: Sequence[ResidualBlock] | None, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum the scores of all tensors of each residual block, in one pool by the name of the first tensor."""
    found = block_tensors(blocks, scores)
    sums = [sum(float(scores[name].double().sum()) for name in names) for names in found.values()]
    return {next(iter(found.values()))[0]: torch.tensor(sums, dtype=torch.float64)}


def shared_blocks(
    blocks: Sequence[ResidualBlock] | None, keep: Mapping[str, Tensor], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Turn one bit per residual block into those of its tensors; what is in no block stays."""
    bits = {name: torch.ones(len(each), dtype=torch.bool, device=each.device) for name, each in scores.items()}
    (stays,) = keep.values()
    for stay, names in zip(stays.tolist(), block_tensors(blocks, scores).values(), strict=True):
        for name in names:
            bits[name].fill_(stay)
    return bits


def block_tensors(
    blocks: Sequence[ResidualBlock] | None, scores: Mapping[str, Tensor]
) -> dict[ResidualBlock, list[str]]:
    """The tensors of each residual block that has any, in the order of the blocks."""
    if blocks is None:
        raise UnfitModelError(
            "Residual blocks must be known: structure.residual_blocks(coupling.residual_blocks(model, inputs)). "
            "`shrink` finds them."
        )
    found: dict[ResidualBlock, list[str]] = {block: [] for block in blocks}
    for name in scores:
        block = lies_in(name, blocks)
        if block is not None:
            found[block].append(name)
    if not any(found.values()):
        raise UnfitModelError("none of these weights is in a residual block.")
    return {block: names for block, names in found.items() if names}
