"""Which entries of a dense tensor survive: what every plan is made of."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur._base.errors import MaskError
from secateur._base.types import Bool, Float, Int


class Shared:
    """An immutable value: copies share it, and a pickle holds the attributes that make it anew."""

    made_of: ClassVar[tuple[str, ...]]

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Shared:
        return self

    def __reduce__(self) -> tuple[type[Shared], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in self.made_of)


class Survivors(Shared):
    """Where the surviving entries of one dense tensor are.

    Attributes:
        shape: of the dense tensor.

    Raises:
        MaskError: 2³¹ or more surviving entries.

    >>> some = Survivors((2, 3), torch.tensor([0, 5]))
    >>> some.gather(torch.arange(6.0).view(2, 3)), some.scatter(torch.ones(2)).tolist()
    (tensor([0., 5.]), [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """

    made_of = ("shape", "positions")

    def __init__(self, shape: tuple[int, ...], positions: Int[Tensor, " kept"]) -> None:
        refuse_too_many(positions.numel())
        self.shape, self._positions = torch.Size(shape), positions

    @property
    def positions(self) -> Int[Tensor, " kept"]:
        """Flat place of each surviving entry, in the order in which their values are stored."""
        return self._positions

    @property
    def kept(self) -> int:
        """How many entries survive."""
        return self._positions.numel()

    @property
    def density(self) -> float:
        """The fraction kept, in [0, 1]."""
        return self.kept / self.shape.numel()

    @property
    def spread(self) -> str:
        """How much is kept, and in how many rows and columns, in words: what decides about the kernels' time."""
        columns = self.shape[1:].numel()
        alive = [len((self.positions // columns).unique()), len((self.positions % columns).unique())]
        return f"{self.density:.3g} in {alive[0]} rows and {alive[1]} columns"

    def gather(self, dense: Float[Tensor, "*shape"]) -> Float[Tensor, " kept"]:
        """Take the surviving entries out of a dense tensor."""
        return dense.reshape(-1)[self.positions.to(dense.device)]

    def scatter(self, values: Float[Tensor, " kept"]) -> Float[Tensor, "*shape"]:
        """Put the surviving entries into a dense tensor of zeros. Differentiable."""
        flat = torch.zeros(self.shape.numel(), dtype=values.dtype, device=values.device)
        return flat.index_copy(0, self.positions.to(values.device), values).view(self.shape)

    def mask(self) -> Bool[Tensor, "*shape"]:
        """Return the mask that keeps these entries."""
        flat = torch.zeros(self.shape.numel(), dtype=torch.bool, device="cpu")
        flat[self.positions] = True
        return flat.view(self.shape)


def refuse_too_many(kept: int) -> None:
    """Raise unless 32 bits are enough to number the surviving entries.

    Raises:
        MaskError: 2³¹ or more.
    """
    if kept >= 2**31:
        raise MaskError("a sparse layer must keep fewer than 2³¹ weights: its indices are 32 bits wide")


def places_of(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, " kept"]:
    """Return the flat place of each entry that a mask keeps, ascending.

    >>> places_of(torch.tensor([[True, False], [False, True]])).tolist()
    [0, 3]
    """
    return mask.cpu().flatten().nonzero().flatten()
