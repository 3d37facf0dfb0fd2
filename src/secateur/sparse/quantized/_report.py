"""What rounding to eight bits did to a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

#: The attribute of a model that has its report.
QUANTIZATION = "quantization_report"


@dataclass(frozen=True)
class LayerErrors:
    """One masked parameter: what rounding it costs, or why it is as it was.

    Attributes:
        name: of the weight.
        shape: of the dense weight.
        kept: how many of its weights survive.
        why_not: why it is not rounded; None: it is.
        weight_error: ‖W − s q‖ / ‖W‖, over the surviving weights; 0 where nothing is rounded.
        output_error: ‖y − ŷ‖ / ‖y‖ of the layer on its own inputs, its bias left out; None where no inputs were given.
        bytes: of the rounded weights, with what says where they are.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    why_not: str | None
    weight_error: float = 0.0
    output_error: float | None = None
    bytes: int = 0

    def __str__(self) -> str:
        head = f"{self.name} [{' × '.join(map(str, self.shape))}]: "
        if self.why_not is not None:
            return f"{head}untouched: {self.why_not}"
        dense = 4 * self.shape[0] * self.shape[1]
        outputs = "" if self.output_error is None else f", outputs by {self.output_error:.2%}"
        return f"{head}int8: weights off by {self.weight_error:.2%}{outputs}; {self.bytes / dense:.3f} × dense float32"


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` did, layer by layer; print it.

    Attributes:
        layers: one for each masked parameter.
        output_error: ‖y − ŷ‖ / ‖y‖ on `example_inputs`, the largest of all outputs; None without inputs, or floats.
        through: the instructions that multiply: "amx", "vnni", or "torch" where there are neither.
    """

    layers: tuple[LayerErrors, ...]
    output_error: float | None
    through: str

    def __str__(self) -> str:
        whole = "" if self.output_error is None else f"outputs of the whole model off by {self.output_error:.2%}; "
        slow = "; this processor has no instructions for int8: slower than float32" if self.through == "torch" else ""
        return "\n".join([*map(str, self.layers), f"{whole}multiplied by {self.through}{slow}"])


def quantization_of(model: nn.Module) -> QuantizationReport:
    """Return what `quantize` did to this model."""
    report = getattr(model, QUANTIZATION, None)
    if not isinstance(report, QuantizationReport):
        raise ValueError("the model was not made by secateur.sparse.quantize, so there is no report of it")
    return report
