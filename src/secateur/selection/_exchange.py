"""An exchange in all layers in one native call: the weakest of the living go, the strongest of the others come."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur._base import door
from secateur.selection import _radix


def exchanged_at_once(
    scores: Mapping[str, Tensor],
    growth: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    moved: Mapping[str, int],
    *,
    just_dropped: bool,
) -> dict[str, Tensor] | None:
    """Return, for each layer, `alive` without its `moved` lowest `scores` and with the `moved` highest `growth`.

    Counts are exact, and of equal scores the lower index is kept and comes first: the same bits as by `topk_mask`.

    Args:
        scores: name → what the living are worth.
        growth: name → what the others are worth, of the same shape.
        alive: name → which live.
        moved: name → how many go and come, at most as many as live, and as are dead.
        just_dropped: whether what has just gone may come.

    Returns:
        name → boolean mask; None where the kernels cannot tell (scores that are not plain float32 on the CPU, that are
        not finite, or of which many tie).
    """
    native = door.native
    if native is None or not all(map(_plain, (*scores.values(), *growth.values(), *alive.values()))):
        return None
    if not all(scores[n].shape == growth[n].shape == bits.shape for n, bits in alive.items()):
        return None
    names, kept = list(alive), {name: torch.empty_like(bits) for name, bits in alive.items()}
    where = [[tensors[name].data_ptr() for name in names] for tensors in (scores, growth, alive, kept)]
    sizes, counts = [alive[name].numel() for name in names], [moved[name] for name in names]
    if max(sizes, default=0) >= 1 << 32:
        return None
    return kept if native.exchange(*where, sizes, counts, just_dropped, torch.get_num_threads()) else None


def _plain(tensor: Tensor) -> bool:
    dtype = torch.bool if tensor.dtype is torch.bool else torch.float32
    return type(tensor) is Tensor and _radix.in_place(tensor, dtype)
