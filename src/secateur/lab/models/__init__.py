"""The networks of the SNIP paper's Tables 1 and 2, as plain modules, with the parameter counts it prints.

    model = build("lenet-300-100", generator=torch.Generator().manual_seed(0))

Feed-forward nets are `nn.Sequential` chains of named layers.
"""

from __future__ import annotations

from secateur.lab.models.chains import alexnet, lenet_5_caffe, lenet_300_100, mlp, vgg, vgg_c, vgg_d, vgg_like
from secateur.lab.models.counts import Counts, count
from secateur.lab.models.recurrent import RowReader, gru, lstm
from secateur.lab.models.registry import Entry, build, catalogue
from secateur.lab.models.wide_resnet import WideBlock, wrn

__all__ = [
    "Counts",
    "Entry",
    "RowReader",
    "WideBlock",
    "alexnet",
    "build",
    "catalogue",
    "count",
    "gru",
    "lenet_5_caffe",
    "lenet_300_100",
    "lstm",
    "mlp",
    "vgg",
    "vgg_c",
    "vgg_d",
    "vgg_like",
    "wrn",
]
