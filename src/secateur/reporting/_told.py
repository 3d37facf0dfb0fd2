"""The parts of a report: a layer, a way of running the network, a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from secateur.costing import Latency

__all__ = ["Curve", "Histogram", "LayerTold", "Pixels", "Way"]


@dataclass(frozen=True)
class Histogram:
    """How many weights have which value, in bins of one width.

    Attributes:
        low: where the first bin begins.
        high: where the last one ends.
        counts: of weights that stay, bin by bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Which pixels kept their connections.

    Attributes:
        name: of the weight that is given the image, flattened.
        kept: connections of each pixel that stay, [row, column], summed over channels and units.
        mean: the mean of the example's images over channels and examples, [row, column].
    """

    name: str
    kept: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Curve:
    """How a number went while the network was trained.

    Attributes:
        name: what it is: "training loss", "test error".
        points: (step, value), in the order of steps.
    """

    name: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class LayerTold:
    """One masked parameter.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        kept: how many of its weights stay.
        numel: how many it has.
        macs: multiplications that one forward on the example adds up with it, dense; of a parameter that several
            layers share, in all of them. None where they cannot be told apart from others (attention).
        bytes: of all its values.
        bytes_kept: of the values that stay, without what says where they lie.
        dead: units without a weight that stays: rows of [out, in], whatever their bias; of a recurrent layer, gates.
        effective: weights that lie on a path of kept weights from the inputs to the outputs; None where not known.
        histogram: of the weights that stay; None where none does.
        scores: of the logarithms (base 10) of the scores above zero, of what stays and of what went, in the same bins;
            None where no scores were given, or none is above zero.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    numel: int
    macs: int | None
    bytes: int
    bytes_kept: int
    dead: int
    effective: int | None
    histogram: Histogram | None = field(default=None, repr=False)
    scores: tuple[Histogram, Histogram] | None = field(default=None, repr=False)

    @property
    def density(self) -> float:
        """The fraction kept; 1 for a parameter without entries."""
        return self.kept / self.numel if self.numel else 1.0

    @property
    def effective_macs(self) -> int | None:
        """Multiplications with weights that stay: the dense ones times the density."""
        return None if self.macs is None else round(self.macs * self.density)

    @property
    def effective_sparsity(self) -> float | None:
        """The fraction of weights that are pruned or lie on no path from the inputs to the outputs."""
        return None if self.effective is None else 1 - self.effective / max(1, self.numel)


@dataclass(frozen=True)
class Way:
    """One way of running the network, timed in turns with the others.

    Attributes:
        name: "dense", "held", "sparse" or "shrunk".
        latency: seconds of a forward on the example in eval mode without gradients; None where it does not run so.
        bytes: of what it stores; 0 where it does not run so.
        ratio: its time / that of the dense model, the median over groups of turns; 1 of the dense one.
        spread: how far the groups' ratios lie from that at most, as a share of it.
        why: why there is no gain here; "" where there is.
    """

    name: str
    latency: Latency | None
    bytes: int = 0
    ratio: float = 1.0
    spread: float = 0.0
    why: str = ""

    @property
    def said(self) -> str:
        """How much faster than dense, or why not."""
        if self.name == "dense":
            return ""
        if self.latency is None or self.why:
            return f"no gain here, because {self.why}"
        return f"{1 / self.ratio:.2f}x as fast as dense (± {self.spread:.0%})"
