"""What goes into a layer and what comes out: how large inputs are, how they go together, how often units are active."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures._activations import Call, LayerCollector
from secateur.measures._measure import Level, Measure, Needs
from secateur.measures._probe import Evidence
from secateur.measures._reduction import all_norm, all_sum, reduced

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


class _InputVariance(LayerCollector):
    def see(self, call: Call) -> None:
        x = call.patches()
        entries = call.weight.dim() - 1
        for part in _parts(x):
            # (groups, channels, numbers): of all taps, so that each place counts as often as it is read
            rows = part.movedim(1, 0).flatten(-entries).flatten(1, -2).double()
            channels = call.weight.shape[1] if call.weight.dim() > 2 else rows.shape[-1]
            values = rows.unflatten(-1, (channels, -1)).movedim(2, 1).flatten(2)
            count = torch.full_like(values[..., 0], values.shape[-1])
            self.accumulate(call.name, torch.stack([count, values.sum(-1), values.square().sum(-1)]).sum(1))

    def compute(self) -> Evidence:
        whole = reduced(dict(self.running), all_sum)
        for name, sums in whole.items():
            if float(sums[0].min()) < 2:
                raise SecateurError(f"input_variance: {name!r} has seen one input, which does not vary. Bring more.")
        return {name: (sums[2] / sums[0] - (sums[1] / sums[0]).square()).clamp(min=0) for name, sums in whole.items()}


class _Activity(LayerCollector):
    def see(self, call: Call) -> None:
        positive = (call.units(call.outputs) > 0).double()
        # The last number counts the outputs seen: it is the divisor, and a state needs it as much as the sums.
        self.accumulate(call.name, torch.cat([positive.sum(0), positive.new_tensor([len(positive)])]))

    def compute(self) -> Evidence:
        # Sums and counts of all ranks first, then their ratio: a mean of means would weigh the ranks wrongly.
        whole = reduced(dict(self.running), all_sum)
        return {name: counts[:-1] / counts[-1] for name, counts in whole.items()}


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


def activity(*, train: bool | None = None) -> Measure:
    """Fraction of a unit's outputs that are positive, over all samples and positions: 1 − APoZ of a unit before a ReLU.

    One number per output unit (row of a linear layer, channel of a convolution), in [0, 1], float64. It looks at the
    layer's own output: with a normalisation between layer and ReLU, that is before the normalisation.
    Source: Hu, Peng, Tai & Tang, "Network trimming", arXiv 1607.03250, §3.1 (average percentage of zeros).
    """
    return Measure("activity", _Activity, needs=Needs.INPUTS, level=Level.UNIT, train=train, reduction=None)


def input_variance(*, train: bool | None = None) -> Measure:
    """Variance of each input channel of a layer, over all samples and places at which it is read (padding included).

    One number per input channel of a convolution (of one group, over all groups), or input of a linear layer; float64.
    Source: Polyak & Wolf, IEEE Access 3, 2015, from memory.
    """
    return Measure("input_variance", _InputVariance, needs=Needs.INPUTS, level=Level.LAYER, train=train, reduction=None)
