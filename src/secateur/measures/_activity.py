"""How often a unit is active."""

from __future__ import annotations

import torch

from secateur.measures._activations import Call, LayerCollector
from secateur.measures._measure import Level, Measure, Needs
from secateur.measures._probe import Evidence
from secateur.measures._reduction import all_sum, reduced


class _Activity(LayerCollector):
    def see(self, call: Call) -> None:
        positive = (call.units(call.outputs) > 0).double()
        # The last number counts the outputs seen: it is the divisor, and a state needs it as much as the sums.
        self.accumulate(call.name, torch.cat([positive.sum(0), positive.new_tensor([len(positive)])]))

    def compute(self) -> Evidence:
        # Sums and counts of all ranks first, then their ratio: a mean of means would weigh the ranks wrongly.
        whole = reduced(dict(self.running), all_sum)
        return {name: counts[:-1] / counts[-1] for name, counts in whole.items()}


def activity(*, train: bool | None = None) -> Measure:
    """Fraction of a unit's outputs that are positive, over all samples and positions: 1 − APoZ of a unit before a ReLU.

    One number per output unit (row of a linear layer, channel of a convolution), in [0, 1], float64. It looks at the
    layer's own output: with a normalisation between layer and ReLU, that is before the normalisation.
    Source: Hu, Peng, Tai & Tang, "Network trimming", arXiv 1607.03250, §3.1 (average percentage of zeros).
    """
    return Measure("activity", _Activity, needs=Needs.INPUTS, level=Level.UNIT, train=train, reduction=None)
