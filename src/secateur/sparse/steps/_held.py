"""The holds over a compiled step's weights: whose masks it follows, and who is told of its steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.errors import MaskError
from secateur._base.zeros import all_true
from secateur.holding import Hold, held
from secateur.masks import Masks
from secateur.sparse.programs import UnsupportedError

__all__ = ["Holds", "refuse_held"]


class Holds:
    """The holds over the parameters of one model, as they were when it was last looked."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._found: list[Hold] = []

    def look(self, masks: Masks) -> Masks:
        """Look for the holds anew, and return the `masks` with theirs in the place of others."""
        over = self._over()
        self._found = [hold for hold, _ in over]
        theirs = {name: mask for _, own in over for name, mask in own.items()}
        others = any(masks.get(n) is not m and not (n not in masks and all_true(m)) for n, m in theirs.items())
        return Masks({**masks, **theirs}, copy=False) if others else masks

    def refuse(self) -> None:
        """Raise if one of them must see each of an optimizer's own steps; this runs at every step."""
        for hold in self._found:
            if hold.refuses is not None and hold.active:
                raise UnsupportedError(hold.refuses)

    def refuse_others(self, masks: Masks) -> None:
        """Raise if one of them holds other masks than these."""
        for hold, own in self._over():
            for name, mask in own.items():
                if not _same(mask, masks.get(name)):
                    raise MaskError(
                        f"{name!r} is held by another mask than the one given for it (by {hold!r}); compile with the "
                        "masks that are held (held.masks, pruner.masks), change them by held.replace(masks), which a "
                        "compiled step follows, or `release()` the hold (secateur.held(model) finds it)"
                    )

    @property
    def asked(self) -> frozenset[int]:
        """Ids of the parameters whose dense gradients are wanted of the coming step."""
        asking = [hold for hold in self._found if hold.asks and hold.active]
        return frozenset(key for hold in asking for key in hold.by_parameter())

    def stepped(self, optimizer: Optimizer, gradients: Mapping[int, Tensor]) -> None:
        """Tell them of a step, with the gradients that were asked for by the parameter's id. Masks may change now."""
        for hold in self._found:
            if hold.changes and hold.active:
                hold.stepped(optimizer, gradients=gradients)

    def _over(self) -> list[tuple[Hold, dict[str, Tensor]]]:
        """Return the holds that are there now, each with its masks by the names that the model knows."""
        found = []
        for hold in held(self._model):
            own = {self._names[key]: mask for key, (_, mask) in hold.by_parameter().items() if key in self._names}
            if own and hold.active:
                found.append((hold, own))
        return found


def refuse_held(model: nn.Module, masks: Masks) -> None:
    """Raise if the model is held in a way that a compiled step cannot follow, or by other masks than these."""
    holds = Holds(model)
    holds.look(masks)
    holds.refuse()
    holds.refuse_others(masks)


def _same(mask: Tensor, other: Tensor | None) -> bool:
    """Whether two masks keep the same; None keeps all."""
    if other is None:
        return all_true(mask)
    return mask is other or (mask.shape == other.shape and bool((mask == other.to(mask.device)).all()))
