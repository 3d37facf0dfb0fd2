"""What `sparsify` chose for each layer, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor, nn

#: The attribute of a model that has its report.
REPORT = "sparse_report"
_NOTE = "NOTE surviving values are vectors: weight decay for `ndim >= 2` skips them; see secateur.sparse.dense_shapes"


class Choice(Enum):
    """How a layer runs."""

    SPARSE = "sparse"
    DENSE = "dense kept"
    UNTOUCHED = "untouched"


@dataclass(frozen=True)
class LayerReport:
    """One masked parameter or one linear layer: what was chosen, and why.

    `held` tells whether its pruned weights stay zero by construction, because only the others are stored.
    Where it is False, `hold` them with `secateur.hold`.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    numel: int
    choice: Choice
    reason: str
    held: bool

    @staticmethod
    def of(
        name: str, tensor: Tensor, mask: Tensor | None, choice: Choice, reason: str, *, held: bool = False
    ) -> LayerReport:
        """Report on a tensor of which the mask keeps some entries, and None all of them."""
        kept = tensor.numel() if mask is None else int(mask.count_nonzero())
        return LayerReport(name, tuple(tensor.shape), kept, tensor.numel(), choice, reason, held)

    def as_it_is(self) -> LayerReport:
        """Return the report of the same layer, dense because its masks change."""
        return replace(self, choice=Choice.DENSE, reason="its masks change: this kind of layer stays dense", held=True)

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.shape))
        return f"{self.name} [{shape}]: {self.choice.value}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """The choices of one `sparsify`, layer by layer; print it.

    Attributes:
        layers: one line for each masked parameter and each layer that could run otherwise.
        whole: what timing whole models decided, in words; empty where only layers were timed.
    """

    layers: tuple[LayerReport, ...]
    whole: str = ""

    @property
    def not_held(self) -> tuple[str, ...]:
        """Names of masked parameters that are stored densely: hold their masks with `secateur.hold`."""
        return tuple(layer.name for layer in self.layers if not layer.held and layer.kept < layer.numel)

    def __str__(self) -> str:
        lines = list(map(str, self.layers))
        if any(layer.held and len(layer.shape) > 1 for layer in self.layers):
            lines.append(_NOTE)
        return "\n".join([*lines, *([self.whole] if self.whole else [])])


def report_of(model: nn.Module) -> Report:
    """Return what `sparsify` chose for the layers of this model, and why."""
    report = getattr(model, REPORT, None)
    if not isinstance(report, Report):
        raise ValueError("the model was not made by secateur.sparsify, so there is no report of it")
    return report
