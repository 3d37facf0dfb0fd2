"""What moves together: a structure cuts a weight tensor into units that are kept or pruned as one.

A structure is one function, `split`, which lays a tensor out as `[unit, entry]`, and a reduction that makes one score
of a unit's entries. The way back, from one keep-bit per unit to a mask, follows from `split` by itself.
The notation in the docstrings is einops' (`o` outputs, `i` inputs, `h w` kernel positions): weights arrive with
their outputs first (`masks.layouts` says which do not by themselves).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import SecateurError, UnfitModelError
from secateur._base.types import Bool, Float, Shaped
from secateur.axes import splits
from secateur.coupling import Coupling, Group, Ids, ResidualBlock, spread, worth_of

Split = Callable[[Tensor], Tensor]
Reduce = Callable[[Tensor], Tensor]


def total(scores: Float[Tensor, "unit entry"]) -> Float[Tensor, " unit"]:
    """Score a unit by the sum of its entries' scores."""
    return scores.squeeze(1) if scores.shape[1] == 1 else scores.sum(1)


def mean(scores: Float[Tensor, "unit entry"]) -> Float[Tensor, " unit"]:
    """Score a unit by the mean of its entries' scores: units of different sizes compete on equal terms."""
    return scores.squeeze(1) if scores.shape[1] == 1 else scores.mean(1)


@dataclass(frozen=True)
class Structure:
    """Units of pruning: how a tensor splits into them, and how their entries' scores combine.

    Attributes:
        name: as printed.
        split: tensor of any shape → `[unit, entry]`, each entry of the tensor in one place; it may move entries and
            pad units with zeros, and must not look at the values.
        reduce: scores `[unit, entry]` → `[unit]`; a plain function, `total` or `mean` or your own.
        biases: whether biases belong to the prunable tensors (SNIP's own protocol counts them).

    >>> halves = Structure("halves", lambda tensor: tensor.reshape(2, -1))  # a structure of your own
    >>> halves.expand({"w": torch.tensor([True, False])}, {"w": torch.Size([2, 2])})["w"].tolist()
    [[True, True], [False, False]]
    """

    name: str
    split: Split
    reduce: Reduce = total
    biases: bool = False

    def units(self, tensors: Mapping[str, Tensor]) -> dict[str, Shaped[Tensor, "unit entry"]]:
        """Lay each tensor out as `[unit, entry]`."""
        return {name: self.split(tensor) for name, tensor in tensors.items()}

    def scores(self, name: str, scores: Tensor) -> Tensor:
        """Reduce one tensor's entry scores to unit scores; single weights keep the tensor's own shape."""
        units = self.split(scores)
        if units.shape[1] > 1:
            return self.reduce(units)
        if self.reduce in (total, mean):
            return scores  # one entry per unit: nothing to reduce, and N:M needs the shape
        return self.reduce(scores.reshape(-1, 1)).reshape(scores.shape)

    def pool(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Join the scores of units that several tensors share; here each tensor has its own."""
        return dict(scores)

    def pool_alive(self, alive: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Say which joined units have anything left."""
        return alive

    def shapes(self, pooled: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Mapping[str, torch.Size]:
        """Return the shape of the tensor that each pool's units are of; here pools have the tensors' names."""
        return shapes

    def share(self, keep: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn keep-bits of joined units into those of each tensor's own; the inverse of `pool`.

        Args:
            keep: one bit per joined unit.
            scores: what was joined: names and shapes.
        """
        return dict(keep)

    def expand(
        self, keep: Mapping[str, Bool[Tensor, "..."]], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Bool[Tensor, "..."]]:
        """Turn one keep-bit per unit into masks of the tensors' `shapes`."""
        return {name: self._expand_one(bits, shapes[name]) for name, bits in keep.items()}

    def _expand_one(self, bits: Tensor, shape: torch.Size) -> Tensor:
        if bits.shape == shape:
            return bits
        mask = torch.zeros(shape, dtype=torch.bool, device=bits.device)
        units = self.split(mask)
        if units.untyped_storage().data_ptr() == mask.untyped_storage().data_ptr():  # a view: write through it
            units.copy_(bits.reshape(-1, 1).expand_as(units))
            return mask
        # Where did each entry go? Split their numbers, from 1, and see; 0 is padding.
        numbers = torch.arange(1, mask.numel() + 1, device=bits.device, dtype=_narrowest(mask.numel()))
        kept = self.split(numbers.reshape(shape))[bits.reshape(-1)]
        mask.view(-1)[kept[kept > 0].long() - 1] = True
        return mask


def _narrowest(largest: int) -> torch.dtype:
    return torch.int32 if largest < 2**31 else torch.int64


def weights(*, biases: bool = False) -> Structure:
    """Single weights: `... -> (...) 1`. With `biases`, biases are prunable too."""
    return Structure("weights(biases=True)" if biases else "weights", splits.weights, biases=biases)


def filters(*, reduce: Reduce = total) -> Structure:
    """Whole filters or neurons, with all that feeds them: `o ... -> o (...)`."""
    return Structure("filters", splits.filters, reduce)


@dataclass(frozen=True)
class Channels(Structure):
    """Whole units of a coupled model: see `channels`.

    Attributes:
        coupling: what is tied to what; None until `shrink` knows it.
        which: which groups of units compete; None is all.
    """

    coupling: Coupling | None = None
    which: Callable[[Group], bool] | None = None

    def pool(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum the scores of all filters that make a unit; what cannot go is in no pool."""
        made = splits.rows_made(self._known, scores)
        worth = worth_of(self._known, [(ids, scores[name].double().cpu().numpy()) for name, ids in made])
        return {name: torch.from_numpy(worth[units]) for name, units in self._pools(scores).items()}

    def pool_alive(self, alive: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A unit is alive where any filter of it is."""
        return {name: bits > 0 for name, bits in self.pool(alive).items()}

    def shapes(self, pooled: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Mapping[str, torch.Size]:
        """Return the shape of the tensor that each pool is named after."""
        return {name: shapes[name.partition(splits.ALSO)[0]] for name in pooled}

    def share(self, keep: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep the filters of all units that stay; a unit that goes takes all along that goes with it."""
        seeds = np.zeros(self._known.count, bool)
        for name, units in self._pools(scores).items():
            seeds[units] = ~keep[name].cpu().numpy()
        stays = ~spread(self._known, seeds)
        bits = {name: torch.ones(len(each), dtype=torch.bool, device=each.device) for name, each in scores.items()}
        for name, ids in splits.rows_made(self._known, scores):
            bits[name] = torch.from_numpy(stays[ids]).to(scores[name].device)
        return bits

    @property
    def _known(self) -> Coupling:
        if self.coupling is None:
            raise UnfitModelError(
                "Channels need a `coupling`: structure.channels(coupling.trace(model, inputs)). `shrink` makes one."
            )
        return self.coupling

    def _pools(self, scores: Mapping[str, Tensor]) -> dict[str, Ids]:
        return splits.unit_pools(self._known, self.which, scores, self.name)


def channels(
    coupling: Coupling | None = None, *, reduce: Reduce = total, which: Callable[[Group], bool] | None = None
) -> Structure:
    """Whole units that `coupling.trace` found: all filters that write a channel stay or go as one.

    A unit's score is the reduction of its filter's scores, `o ... -> o (...)`, summed over all tensors that make
    it. What cannot go (the outputs of the model) does not compete. The masks cut whole units, ready for `shrink`.

    Args:
        coupling: of the model that is pruned; without one the structure is for methods that `shrink` runs.
        reduce: of one filter's scores.
        which: which groups of units compete, as a function of `coupling.Group`: its `name`, its `units`, its `kind`
            ("units", "heads", "heads of groups", "head width", "stream"). What is in none of them stays.

    >>> from secateur.coupling import trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> rows = {"0.weight": torch.tensor([3.0, 1.0, 2.0]), "1.weight": torch.ones(2)}
    >>> channels(trace(net, torch.zeros(1, 4))).pool(rows)
    {'0.weight': tensor([3., 1., 2.], dtype=torch.float64)}
    """
    return Channels("channels", splits.filters, reduce, coupling=coupling, which=which)


def attention_heads(coupling: Coupling | None = None, *, reduce: Reduce = total) -> Structure:
    """Whole heads of attention, with all that feeds them and reads them; nothing else goes.

    Heads are the dimensions before the two of an attention's weights. With grouped queries whole groups go.

    Args:
        coupling: of the model that is pruned; without one the structure is for methods that `shrink` runs.
        reduce: of one filter's scores; a head's is the sum over its filters.
    """
    return Channels("attention heads", splits.filters, reduce, coupling=coupling, which=_is_of_heads)


def _is_of_heads(group: Group) -> bool:
    return group.kind == "heads"


def columns(*, reduce: Reduce = total) -> Structure:
    """Everything that reads one input: `o i ... -> i (o ...)`."""
    return Structure("columns", splits.columns, reduce)


def kernels(*, reduce: Reduce = total) -> Structure:
    """The 2-d kernel between one input and one output channel: `o i ... -> (o i) (...)`."""
    return Structure("kernels", splits.kernels, reduce)


def stripes(*, reduce: Reduce = total) -> Structure:
    """One kernel position over all inputs of a filter: `o i ... -> (o ...) i`."""
    return Structure("stripes", splits.stripes, reduce)


def lowered(*, reduce: Reduce = total) -> Structure:
    """A column of the lowered filter matrix, which all filters read from one input at one position: `o ... -> (...) o`.

    Without one, the matrix product that a convolution is turned into (im2col) is a smaller dense one. A linear layer is
    its own lowered matrix: its columns are its inputs.
    """
    return Structure("lowered", splits.lowered, reduce)


def shapes(*, reduce: Reduce = total) -> Structure:
    """Filter shapes: what all filters read from one input channel at one kernel position, `o i p ... -> (i p ...) o`.

    As `lowered`, of convolutions alone: a linear layer has no kernel to give a shape to, and is refused.
    """
    return Structure("shapes", splits.shapes, reduce)


def whole(*, reduce: Reduce = total) -> Structure:
    """Whole layers: `... -> 1 (...)`."""
    return Structure("whole", splits.whole, reduce)


@dataclass(frozen=True)
class ResidualBlocks(Structure):
    """Whole residual blocks: see `residual_blocks`. Which ones is None until `shrink` knows them."""

    blocks: tuple[ResidualBlock, ...] | None = None

    def pool(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum the scores of all tensors of a block; what is in no block is in no pool."""
        return splits.pooled_blocks(self.blocks, scores)

    def pool_alive(self, alive: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A block is alive where any of its tensors is."""
        return {name: bits > 0 for name, bits in self.pool(alive).items()}

    def share(self, keep: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep or drop all tensors of a block; what is in no block stays."""
        return splits.shared_blocks(self.blocks, keep, scores)


def residual_blocks(blocks: Sequence[ResidualBlock] | None = None, *, reduce: Reduce = total) -> Structure:
    """Whole residual blocks, x + branch(x): all weights of a branch stay or go as one, `... -> 1 (...)` of each.

    A block's score is the sum over its tensors. `shrink` takes what goes out of the model.

    Args:
        blocks: as `coupling.residual_blocks` finds them; without, the structure is for methods that `shrink` runs.
        reduce: of one tensor's scores.
    """
    return ResidualBlocks("residual blocks", splits.whole, reduce, blocks=None if blocks is None else tuple(blocks))


def heads(count: int, *, reduce: Reduce = total) -> Structure:
    """`count` equal groups of consecutive outputs, as attention heads are: `(h d) ... -> h (d ...)`."""
    if count < 1:
        raise SecateurError(f"`count` must be at least 1, got {count}.")
    return Structure(f"heads({count})", splits.Heads(count), reduce)


def blocks(rows: int, columns: int, *, reduce: Reduce = total) -> Structure:
    """Tiles of `rows` outputs × `columns` inputs: `(o r) (i c) ... -> (o i ...) (r c)`.

    Where the sizes do not divide, the last tiles are smaller: they are padded with score 0.
    """
    if min(rows, columns) < 1:
        raise SecateurError(f"`rows` and `columns` must be at least 1, got {rows} and {columns}.")
    return Structure(f"blocks({rows}, {columns})", splits.Blocks(rows, columns), reduce)
