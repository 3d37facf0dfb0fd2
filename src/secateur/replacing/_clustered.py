"""A convolution that stores, of each input channel, few kernels and which output reads which."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.replacing._means import k_means


class ClusteredConv(nn.Module):
    """A convolution with q_c kernels for input channel c, and for each output the number of the one it reads there.

    W[n, c] = centres[offset_c + index[n, c]]; channels of q_c = 0 are not read at all. Training moves the centres. The
    weight is put together at each forward, so that it computes as fast as a convolution of the channels that are left:
    what is saved is storage, and multiplications on hardware that multiplies each kernel once.

    Attributes:
        centres: [Σ_c q_c, *kernel], trained.
        index: [N, channels that stay], int16 (int32 from 2¹⁵ kernels a channel on).
        counts: q_c of each channel, zeros included; int32.
        bias: as before.
    """

    centres: nn.Parameter
    index: Tensor
    counts: Tensor

    def __init__(self, like: _ConvNd, counts: Tensor) -> None:
        super().__init__()
        shape = copy.copy(like)
        shape.__dict__ = {**like.__dict__, "_parameters": {}, "_buffers": {}}
        self.like: list[_ConvNd] = [shape]  # in a list, so that it is no submodule: strides and paddings, no weights
        wide = torch.int16 if like.out_channels < 2**15 else torch.int32
        stay = int((counts > 0).sum())
        weight = like.weight
        self.centres = nn.Parameter(weight.new_zeros(int(counts.sum()), *weight.shape[2:]), weight.requires_grad)
        self.register_buffer("index", torch.zeros(like.out_channels, stay, dtype=wide, device=weight.device))
        self.register_buffer("counts", counts.to(weight.device, torch.int32))
        self.bias = like.bias

    @torch.no_grad()
    def cluster(self, weight: Tensor, generator: torch.Generator) -> None:
        """Take the kernels of a weight [N, C, *kernel]: q_c means of channel c's."""
        begin = 0
        for place, channel in enumerate(self.kept.tolist()):
            count = int(self.counts[channel])
            centres, nearest = k_means(weight[:, channel].flatten(1), count, generator)
            self.centres[begin : begin + count] = centres.reshape(count, *weight.shape[2:]).to(self.centres.dtype)
            self.index[:, place] = nearest.to(self.index.dtype)
            begin += count

    @property
    def kept(self) -> Tensor:
        """The numbers of the input channels that are read."""
        return (self.counts > 0).nonzero().flatten()

    def weight(self) -> Tensor:
        """The weight of the channels that are read, [N, channels that stay, *kernel], with its graph to the centres."""
        own = self.counts[self.counts > 0].long()
        return self.centres[(own.cumsum(0) - own) + self.index.long()]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve as the layer that it stands for did."""
        dim = x.dim() - (self.centres.dim() - 1) - 1
        if self.index.shape[1] < len(self.counts):
            x = x.index_select(dim, self.kept)
        return self.like[0]._conv_forward(x, self.weight(), self.bias)

    def dense(self) -> Tensor:
        """The whole weight [N, C, *kernel], zero where a channel is not read."""
        weight = self.weight()
        whole = weight.new_zeros(weight.shape[0], len(self.counts), *weight.shape[2:])
        return whole.index_copy(1, self.kept, weight)

    def bits(self, per_value: int) -> int:
        """What it takes to store the kernels and, with ⌈log₂ q_c⌉ bits each, the index; an index of all is none."""
        outputs = len(self.index)
        few = [count for count in self.counts.tolist() if 1 < count < outputs]
        return self.centres.numel() * per_value + outputs * sum((count - 1).bit_length() for count in few)

    def extra_repr(self) -> str:
        """Kernels stored, of how many."""
        return f"{len(self.centres)} of {len(self.index) * len(self.counts)} kernels"


def kernel_counts(worth: Tensor, outputs: int, *, groups: int, shift: int) -> Tensor:
    """How many kernels each channel keeps, by what it is worth in [0, 1]: none, a few, or all.

    q = 0 where ⌊vG⌋ = 0; N where ⌈vG⌉ = G; else ⌈N/2^{G − ⌈vG⌉ + T}⌉.

    >>> kernel_counts(torch.tensor([0.1, 0.3, 0.6, 0.8]), 64, groups=4, shift=0).tolist()
    [0, 16, 32, 64]
    """
    level = (worth * groups).ceil().long()
    few = [-(-outputs // 2 ** (groups - each + shift)) for each in level.clamp(0, groups).tolist()]
    counts = torch.tensor(few, device=worth.device)
    counts = torch.where(level >= groups, outputs, counts)
    return torch.where((worth * groups).floor() < 1, 0, counts)


def convolutions(model: nn.Module, names: Sequence[str]) -> dict[str, _ConvNd]:
    """The convolutions whose kernels can be clustered, by path: ungrouped, not transposed, sharing no weights."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = {}
    for name in names:
        path = name.rpartition(".")[0]
        layer = model.get_submodule(path)
        plain = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
        if plain and name.endswith("weight") and owners[id(layer.weight)] == 1 and path:
            found[path] = layer
    return found
