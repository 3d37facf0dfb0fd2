"""A ticket moved to another network of its kind: other data, other classes, another optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.masks import Masks

__all__ = ["HeadRule", "drawn_head", "transfer"]

#: (model, names of the tensors that do not fit) → None: writes what a head that does not fit starts from.
HeadRule = Callable[[nn.Module, tuple[str, ...]], None]


def drawn_head(model: nn.Module, names: tuple[str, ...]) -> None:
    """Let a head that does not fit keep the values that the new model has, which were drawn when it was made."""


def transfer(model: nn.Module, masks: Masks, weights: Mapping[str, Tensor], *, head: HeadRule | None = None) -> Masks:
    """Give a ticket's masks and starting weights to a model of the same architecture, made for other data.

    Tensors are matched by name. What has another shape is the head, for other classes: it stays dense, and `head` says
    what it starts from. Returns the masks of the new model.

    Args:
        model: overwritten.
        masks: the ticket's.
        weights: the values that its survivors start from, a `state_dict`.
        head: what a classifier that does not fit starts from, for instance `drawn_head`.

    Raises:
        SecateurError: the networks have different tensors, or the head differs and there is no rule for it; the model
            is as it was.

    Source: Morcos, Yu, Paganini & Tian, "One ticket to win them all", NeurIPS 2019, arXiv 1906.02773, §3; Desai, Zhan &
    Aly, arXiv 1910.12708, for tickets under shift of the distribution.
    """
    own = model.state_dict()
    missing = sorted(own.keys() ^ weights.keys())
    if missing:
        raise SecateurError(
            f"`weights` and the model have different tensors: {missing[0]!r} and {len(missing) - 1} more. A ticket "
            "goes to a network of its own architecture; build the model as that one was."
        )
    unfit = tuple(name for name in own if own[name].shape != weights[name].shape)
    if unfit and head is None:
        name = unfit[0]
        raise SecateurError(
            f"{name!r} has shape {tuple(own[name].shape)} here and {tuple(weights[name].shape)} in the ticket: other "
            "classes need a head of their own. Say what it starts from: head=tickets.drawn_head keeps the values that "
            "the new model has."
        )
    fitting = {name: mask for name, mask in masks.items() if name not in unfit}
    if not fitting:
        raise SecateurError("No tensor of the ticket's masks fits the model. Build the model as the ticket's was.")
    carried = Masks(fitting)
    carried.check(model)
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in unfit:
                tensor.copy_(weights[name])
    if head is not None and unfit:
        head(model, unfit)
    carried.apply_(model)
    return carried
