"""What the inputs of a layer tell about its weights: how large each is, and how they go together."""

from __future__ import annotations

from torch import Tensor

from secateur.measures._activations import Call, LayerCollector
from secateur.measures._measure import Level, Measure, Needs
from secateur.measures._probe import Evidence
from secateur.measures._reduction import all_norm

_CHUNK = 1 << 22  # patch entries that are copied at once


class _InputNorm(LayerCollector):
    def see(self, call: Call) -> None:
        x = call.patches()
        entries = call.weight.dim() - 1
        over = [axis for axis in range(x.dim() - entries) if axis != 1]
        for part in _parts(x):
            self.accumulate(call.name, call.per_entry(part.double().square().sum(over)))

    def compute(self) -> Evidence:
        return {name: squares.sqrt() for name, squares in self.running.items()}


class _Gram(LayerCollector):
    def see(self, call: Call) -> None:
        x = call.patches()
        entries = call.weight.dim() - 1
        for part in _parts(x):
            rows = part.movedim(1, 0).flatten(-entries).flatten(1, -2).double()  # (groups, positions, entries)
            product = rows.mT @ rows
            self.accumulate(call.name, product if call.groups > 1 else product[0])


def _parts(patches: Tensor) -> tuple[Tensor, ...]:
    """Cut along the samples: patches overlap, so a copy of all of them can be many times the input."""
    return patches.split(max(1, _CHUNK * len(patches) // max(1, patches.numel())))


def input_norm(*, train: bool | None = None) -> Measure:
    """Euclidean norm of the input that each weight multiplies: ‖x‖₂ over all samples and positions of the batches.

    In the shape that broadcasts to the weight's: (1, in) for a linear layer, (1, channels, kernel…) for a convolution,
    whose entry (c, u) multiplies x_c shifted by u; padding counts as zeros, or as what the padding mode puts there. A
    grouped convolution has (out, channels of the group, kernel…). Sums and result are float64.
    Source: Wanda's |W|·‖X‖₂, arXiv 2306.11695, §3.
    """
    return Measure("input_norm", _InputNorm, needs=Needs.INPUTS, train=train, reduction=all_norm)


def gram(*, train: bool | None = None) -> Measure:
    """Second moments of a layer's inputs, G = X Xᵀ = Σ x xᵀ over all samples and positions, x one output's input patch.

    Shape (d, d), with the d entries of one unit's weight ordered as in `weight.flatten(1)`; (groups, d, d) for a
    grouped convolution. ‖(w − w′) X‖² = (w − w′) G (w − w′)ᵀ is what a change of one unit's weight does to its output,
    so G is the Hessian of layer-wise repairs, but for a factor. Float64.
    Source: L-OBS, arXiv 1705.07565, §3.2; SparseGPT, arXiv 2301.00774, §3.
    """
    return Measure("gram", _Gram, needs=Needs.INPUTS, level=Level.LAYER, train=train)
