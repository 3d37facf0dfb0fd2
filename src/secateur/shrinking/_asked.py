"""What was asked of `shrink`, checked, and turned into a cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.axes.structure import ResidualBlocks
from secateur.costing import Call
from secateur.coupling import Coupling, Outputs, complete
from secateur.masks import Masks
from secateur.measures import Batch, Loss
from secateur.pruning import reusable
from secateur.shrinking._choose import check_budgets
from secateur.shrinking._close import dead_in, masks_of
from secateur.shrinking._cutting import Cutting, masks_by, of_density, of_masks, repaired
from secateur.shrinking.depth import Gone, blocks_by, gone_blocks
from secateur.shrinking.units import Limits, Select, UnitScore, l1, of_weights

__all__ = ["Asked"]


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to go, as it was asked for."""

    what: Masks | Method | float | Mapping[str, float]
    of: str
    score: UnitScore
    only: Select
    multiples: int
    minimum: int
    batches: Iterable[Batch] | None
    loss: Loss | None
    said: str = "the masks left nothing of it"

    def check(self) -> None:
        """Refuse arguments that would be ignored, and budgets that are none."""
        what = self.what
        if not isinstance(what, Method) and (self.batches is not None or self.loss is not None):
            raise SecateurError("`batches` and `loss` are for a method as `what`, which would look at them.")
        if isinstance(what, Masks) and self.only is not None:
            raise SecateurError("`only` is for a density or a method as `what`: masks say themselves what goes.")
        if not isinstance(what, Masks | Method):
            if isinstance(what, Mapping) and self.of != "units":
                raise SecateurError(
                    f"`of` is for one density as `what`, and these say of what they are, got of={self.of!r}."
                )
            check_budgets(what, self.of)
        elif self.of != "units" or self.score is not l1:
            raise SecateurError(
                f"`of` and `score` are for a density as `what`, got of={self.of!r}: masks and methods choose units "
                "themselves."
            )
        elif (self.multiples, self.minimum) != (1, 1) and not self._counts():
            raise SecateurError(
                f"`multiples` and `minimum` are for a density or a method that ranks units as `what`, got "
                f"multiples={self.multiples}, minimum={self.minimum}: masks and whole blocks say themselves what goes."
            )

    def _counts(self) -> bool:
        return isinstance(self.what, Method) and not isinstance(self.what.structure, ResidualBlocks)

    def without_blocks(self, model: nn.Module, call: Call, *, close: bool) -> tuple[nn.Module, Gone, Asked]:
        """Return the model without the residual blocks that go, which these are, and what is asked of the rest."""
        gone, said = Gone(), self.said
        if isinstance(self.what, Method) and isinstance(self.what.structure, ResidualBlocks):
            said = f"{self.what.name} left nothing of it"
            gone = blocks_by(model, self.what, call, self.batches, self.loss, of_weights(model, self.only))
        elif isinstance(self.what, Masks):
            gone = gone_blocks(model, self.what, call, close=close)
        slim = gone.without(model)
        rest = gone.rest(slim)
        return slim, gone, self if rest is None else replace(self, what=rest, batches=None, loss=None, said=said)

    def cutting(
        self,
        model: nn.Module,
        coupling: Coupling,
        call: Call,
        outputs: Outputs | None,
        inexact: Sequence[str],
        *,
        close: bool,
        fold: bool,
    ) -> Cutting:
        """Choose what goes."""
        masks = self.what
        if not isinstance(masks, Masks | Method):
            limits = Limits.of(model, coupling, self.only, self.multiples, self.minimum)
            return of_density(model, check_budgets(masks, self.of), self.score, coupling, call, limits)
        said, worth = self.said, None
        if isinstance(masks, Method):
            said, only = f"{masks.name} left nothing of it", of_weights(model, self.only)
            limits = Limits.of(model, coupling, None, self.multiples, self.minimum)
            seen, repair = reusable(self.batches), masks.repair
            masks, worth = masks_by(model, replace(masks, repair=None), coupling, seen, self.loss, only, limits)
            if repair is not None:
                masks = masks_of(model, coupling, complete(coupling, dead_in(masks, coupling)), masks)
                model = repaired(model, masks, repair, seen, self.loss)
        return of_masks(
            model, masks, coupling, call, outputs, inexact=inexact, close=close, fold=fold, said=said, worth=worth
        )
