"""From a scan to the smallest network that still does its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.masks import Masks, Only, prunable, unwrap
from secateur.measures import preserved
from secateur.scanning._scan import Evaluate, Level, Sensitivity, cut, largest, measured, sensitivity


@dataclass(frozen=True)
class Smallest:
    """The smallest network that a search found within its limit.

    Attributes:
        masks: what stays.
        levels: the level of each layer; its error is that of the layer cut alone.
        error: of all layers cut together, nothing retrained.
        dense: of the network as it is.
        evaluations: how often the model was evaluated after the scan.
    """

    masks: Masks
    levels: Mapping[str, Level]
    error: float
    dense: float
    evaluations: int

    @property
    def qualities(self) -> dict[str, float]:
        """q of each layer, as `methods.lwc(quality=…)` takes them."""
        return {name: level.quality for name, level in self.levels.items()}

    @property
    def densities(self) -> dict[str, float]:
        """The fraction of each layer that stays, as `scope.given` takes them."""
        return {name: level.density for name, level in self.levels.items()}


def smallest(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    within: float,
    scan: Sensitivity | None = None,
    only: Only = None,
) -> Smallest:
    """Search for the fewest weights at which the error is at most `within` above the dense network's.

    Each layer takes a level of its scan. First all layers together, each as low as it can go alone for a rise of δ,
    with δ bisected; then layer by layer, that which loses most weights first, one level down as long as the limit
    allows, until no layer can take one more step alone. The answer is measured, not predicted: `error` is that of the
    masks. It need not be the best of all combinations.

    Args:
        model: the trained network; it is left as found.
        evaluate: (model) → a number, the lower the better.
        within: by how much the error may rise, in the unit of `evaluate`; 0 or more.
        scan: of this very model, by `sensitivity`; None scans first, at the usual densities.
        only: which tensors, see `prunable`; with a `scan`, those of the scan.

    Raises:
        SecateurError: a negative `within`, or a scan of another model.

    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §5: thresholds are found from each layer's sensitivity.

    >>> net = nn.Linear(4, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    >>> lost = lambda m: 10.0 - float(m.weight.abs().sum())
    >>> smallest(net, lost, within=3.0, scan=sensitivity(net, lost, densities=[1, 0.75, 0.5, 0.25])).masks.kept
    2
    """
    if not within >= 0:
        raise SecateurError(f"`within` must be 0 or more, got {within}: by how much the error may rise.")
    network = unwrap(model)
    scan = scan or sensitivity(model, evaluate, only=only)
    params = prunable(network, list(scan.levels), frozen=True)
    odd = [name for name, size in scan.sizes.items() if params[name].numel() != size]
    if odd:
        raise SecateurError(f"`scan` is of another model: {odd[0]!r} has {params[odd[0]].numel()} weights here.")
    with preserved(network, {}), torch.no_grad():
        search = _Search(model, evaluate, params, scan, scan.dense + within)
        search.together()
        search.one_by_one()
    levels = {name: search.levels_of(name)[place] for name, place in search.places.items()}
    masks = Masks({name: largest(params[name], level.kept, name) for name, level in levels.items()})
    return Smallest(masks, levels, search.error, scan.dense, search.evaluations)


@dataclass
class _Search:
    model: nn.Module
    evaluate: Evaluate
    params: Mapping[str, nn.Parameter]
    scan: Sensitivity
    limit: float
    places: dict[str, int] = field(default_factory=dict)  # the level of each layer, 0 for whole
    error: float = 0.0
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.places, self.error = dict.fromkeys(self.scan.levels, 0), self.scan.dense

    def levels_of(self, name: str) -> list[Level]:
        """The levels of a layer, whole first, those that keep as many as another left out."""
        whole = Level(1.0, self.scan.sizes[name], 0.0, self.scan.dense)
        by_count = {level.kept: level for level in (whole, *self.scan.levels[name])}
        return [by_count[kept] for kept in sorted(by_count, reverse=True)]

    def together(self) -> None:
        """Bisect the rise that each layer is allowed alone."""
        rises = sorted({level.error for name in self.places for level in self.levels_of(name)})
        low, high = 0, len(rises)
        while low < high:
            middle = (low + high) // 2
            places = {name: self._lowest(name, rises[middle]) for name in self.places}
            error = self._measured(places)
            if error <= self.limit:
                if self._kept(places) < self._kept(self.places):
                    self.places, self.error = places, error
                low = middle + 1
            else:
                high = middle

    def one_by_one(self) -> None:
        """Take single steps down while any is within the limit, the largest first."""
        refused: set[str] = set()
        while steps := [name for name in self.places if name not in refused and self._gain(name)]:
            name = max(steps, key=self._gain)
            places = self.places | {name: self.places[name] + 1}
            error = self._measured(places)
            if error <= self.limit:
                self.places, self.error = places, error
                refused.clear()  # what was too much before may fit now
            else:
                refused.add(name)

    def _lowest(self, name: str, error: float) -> int:
        fits = [place for place, level in enumerate(self.levels_of(name)) if level.error <= error]
        return max(fits, default=0)

    def _gain(self, name: str) -> int:
        levels, place = self.levels_of(name), self.places[name]
        return levels[place].kept - levels[place + 1].kept if place + 1 < len(levels) else 0

    def _kept(self, places: Mapping[str, int]) -> int:
        return sum(self.levels_of(name)[place].kept for name, place in places.items())

    def _measured(self, places: Mapping[str, int]) -> float:
        self.evaluations += 1
        kept = {name: self.levels_of(name)[place].kept for name, place in places.items()}
        with cut(self.params, {name: largest(self.params[name], kept[name], name) for name in kept}):
            return measured(self.model, self.evaluate, "a combination of levels")
