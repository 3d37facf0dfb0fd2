"""Masks, and a value that all they keep reaches: so that nobody need look at every score again to know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


class Chosen(dict[str, Tensor]):
    """Masks by name, as `topk_mask` returns them, with a lower bound of the scores that they keep.

    Args:
        masks: name → mask.
        of: the scores that were chosen from.
        at_least: no score that is kept is lower; None if that is not known.
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor] | None = None,
        *,
        of: Mapping[str, Tensor] | None = None,
        at_least: float | None = None,
    ) -> None:
        super().__init__(masks or {})
        known = of if of is not None and at_least is not None else {}
        self._bounds = {name: (scores, self[name], at_least) for name, scores in known.items()}

    @staticmethod
    def joined(pools: Iterable[Chosen]) -> Chosen:
        """What was chosen from several pools, each with its own bound."""
        whole = Chosen()
        for pool in pools:
            whole.update(pool)
            whole._bounds.update(pool._bounds)
        return whole

    def lower_bound(self, name: str, scores: Tensor) -> float | None:
        """A value that every one of these scores reaches that is kept.

        None if it is not known: other scores were chosen from, or the mask has been replaced since.
        """
        of, mask, at_least = self._bounds.get(name, (None, None, None))
        return at_least if of is scores and mask is self[name] else None
