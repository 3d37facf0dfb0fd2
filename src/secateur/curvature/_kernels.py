"""How much what one input adds to one output varies from sample to sample."""

from __future__ import annotations

import torch

from secateur._base.errors import SecateurError
from secateur.measures import Call, Evidence, LayerCollector, Level, Measure, Needs, all_sum, reduced

__all__ = ["kernel_variance"]

_CHUNK = 1 << 22  # numbers that are made at once


class _KernelVariance(LayerCollector):
    def see(self, call: Call) -> None:
        x = call.patches()
        weight = call.matrix.detach().double()
        kernels = weight.reshape(call.groups, -1, weight.shape[1], weight[0, 0].numel())
        samples = max(1, _CHUNK // max(x[0].numel() * kernels.shape[-1], kernels[..., 0].numel()))
        for part in x.split(samples):
            seen = part.double().reshape(len(part), call.groups, -1, *kernels.shape[2:])  # (…, places, channels, taps)
            taps = torch.einsum("ngtcu,ngtcv->ngcuv", seen, seen)
            squares = torch.einsum("gocu,ngcuv,gocv->ngoc", kernels, taps, kernels).clamp(min=0)
            sums = torch.stack([torch.full_like(squares[0], len(part)), squares.sqrt().sum(0), squares.sum(0)])
            self.accumulate(call.name, sums.flatten(1))

    def compute(self) -> Evidence:
        whole = reduced(dict(self.running), all_sum)
        for name, sums in whole.items():
            if float(sums[0].min()) < 2:
                raise SecateurError(f"kernel_variance: {name!r} has seen one sample, which does not vary. Bring more.")
        return {name: (s[2] / s[0] - (s[1] / s[0]).square()).clamp(min=0) for name, s in whole.items()}


def kernel_variance() -> Measure:
    """Variance over samples of ‖K_oc ∗ x_c‖₂, the norm of what input channel c adds to the map of output o.

    One number per kernel, ordered as `structure.kernels()` has them, (o, c); float64. Of a linear layer a kernel is one
    weight. Positions of a linear layer's inputs are samples. Eval mode. Memory: three numbers a kernel.
    Source: Polyak & Wolf, IEEE Access 3, 2015 (inbound pruning), from memory.
    """
    return Measure(
        "kernel_variance", _KernelVariance, needs=Needs.INPUTS, level=Level.LAYER, train=False, reduction=None
    )
