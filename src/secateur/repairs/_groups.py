"""Groups of a layer's inputs removed one after the other, each time the cheapest, all others making up for it."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float
from secateur.repairs._second_moments import factor_of, inverse_of

__all__ = ["group_removal", "support_error"]


def group_removal(
    rows: Float[Tensor, "out entries"],
    moments: Float[Tensor, "entries entries"],
    channels: int,
    *,
    keep: int,
    swaps: int = 0,
) -> Float[Tensor, " channels"]:
    """Worth of each input group, of which the `keep` best are a greedy solution of the layer's least squares.

    The cheapest group by ½ tr(W_g ([H⁻¹]_gg)⁻¹ W_gᵀ) goes; W ← W − W_g([H⁻¹]_gg)⁻¹H⁻¹_g: and H⁻¹ loses the group;
    again, until one is left. With `swaps`, the set of `keep` groups is then improved: the group outside that lowers
    the error most comes in, the cheapest goes, as long as the error falls.

    Args:
        rows: the weights, entries ordered (channel, tap).
        moments: H of the layer's inputs, positive definite (`damped`).
        channels: how many groups of equally many consecutive entries.
        keep: how many stay.
        swaps: exchanges at most.

    Returns:
        The order of removal, from 0; what a swap brought in is above all that it left out.

    Source: Meng et al., "OSSCAR", arXiv 2403.12983, §3; of groups of one entry, OBC's step for all rows together.

    >>> group_removal(torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3, dtype=torch.float64), 3, keep=1)
    tensor([0., 1., 2.], dtype=torch.float64)
    """
    if not 1 <= keep <= channels:
        raise SecateurError(f"`keep` must be in 1 … {channels}, got {keep}.")
    taps = rows.shape[1] // channels
    order = torch.zeros(channels, dtype=torch.float64, device=rows.device)
    weight, inverse = rows.double().clone(), inverse_of(moments)
    left = torch.ones(channels, dtype=torch.bool, device=rows.device)
    for step in range(channels):
        if step == channels - 1:
            order[left] = step
            break
        best = int(torch.where(left, _costs(weight, inverse, left, taps), torch.inf).argmin())
        order[best], left[best] = step, False
        here = slice(best * taps, (best + 1) * taps)
        factor = torch.linalg.solve(inverse[here, here], inverse[here])
        weight -= weight[:, here] @ factor
        inverse = inverse - inverse[:, here] @ factor
    if swaps:
        order = _swapped(rows.double(), moments.double(), order, keep, taps, swaps)
    return order


def _costs(weight: Tensor, inverse: Tensor, left: Tensor, taps: int) -> Tensor:
    """½ tr(W_g ([H⁻¹]_gg)⁻¹ W_gᵀ) of each group."""
    channels = len(left)
    blocks = inverse.reshape(channels, taps, channels, taps)[torch.arange(channels), :, torch.arange(channels)]
    blocks = torch.where(left[:, None, None], blocks, torch.eye(taps, dtype=blocks.dtype, device=blocks.device))
    parts = weight.reshape(len(weight), channels, taps).transpose(0, 1)  # (channels, out, taps)
    return 0.5 * (parts * torch.linalg.solve(blocks, parts.mT).mT).sum((1, 2))


def support_error(
    rows: Float[Tensor, "out entries"], moments: Float[Tensor, "entries entries"], stays: Bool[Tensor, " entries"]
) -> float:
    """½ min ‖(W − W′)X‖² over W′ on the entries that stay: ½ tr(W_P (G_PP − G_PS G_SS⁻¹ G_SP) W_Pᵀ)."""
    return 0.5 * float(((rows @ _beyond(moments, stays)) * rows).sum())


def _beyond(moments: Tensor, stays: Tensor) -> Tensor:
    """G − G_:S G_SS⁻¹ G_S:, what the inputs that stay cannot say of the others."""
    here = stays.nonzero().flatten()
    if not len(here):
        return moments
    return moments - moments[:, here] @ torch.cholesky_solve(moments[here], factor_of(moments[here[:, None], here]))


def _swapped(rows: Tensor, moments: Tensor, order: Tensor, keep: int, taps: int, swaps: int) -> Tensor:
    channels = len(order)
    stays = order >= channels - keep
    error = support_error(rows, moments, stays.repeat_interleave(taps))
    for _ in range(swaps):
        if bool(stays.all()):
            break
        entered = stays.clone()
        entered[_best_outside(rows, moments, stays, taps)] = True
        here = entered.repeat_interleave(taps).nonzero().flatten()
        factor = factor_of(moments[here[:, None], here])
        solved = torch.cholesky_solve(moments[here] @ rows.T, factor).T
        costs = _costs(solved, torch.cholesky_inverse(factor), entered[entered], taps)
        entered[entered.nonzero().flatten()[int(costs.argmin())]] = False
        found = support_error(rows, moments, entered.repeat_interleave(taps))
        if not found < error * (1 - 1e-12):
            break
        stays, error = entered, found
    return torch.where(stays, order + channels, order)


def _best_outside(rows: Tensor, moments: Tensor, stays: Tensor, taps: int) -> int:
    """The group whose coming in lowers the error most: ½ tr(W R_:g R_gg⁻¹ R_g: Wᵀ)."""
    beyond, channels = _beyond(moments, stays.repeat_interleave(taps)), len(stays)
    drawn = (rows @ beyond).reshape(len(rows), channels, taps).transpose(0, 1)
    blocks = beyond.reshape(channels, taps, channels, taps)[torch.arange(channels), :, torch.arange(channels)]
    blocks = torch.where(stays[:, None, None], torch.eye(taps, dtype=blocks.dtype, device=blocks.device), blocks)
    gains = (drawn * torch.linalg.solve(blocks, drawn.mT).mT).sum((1, 2))
    return int(torch.where(stays, -torch.inf, gains).argmax())
