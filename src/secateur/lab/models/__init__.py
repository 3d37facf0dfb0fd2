"""The networks of the SNIP paper's Tables 1 and 2, as plain modules, with the parameter counts it prints.

    model = build("lenet-300-100", generator=torch.Generator().manual_seed(0))

Feed-forward nets are `nn.Sequential` chains of named layers.
"""

from __future__ import annotations

from secateur.lab.models._chains import alexnet, lenet_5_caffe, lenet_300_100, mlp, vgg, vgg_c, vgg_d, vgg_like
from secateur.lab.models._counts import Counts, count
from secateur.lab.models._init import (
    Initial,
    Initialiser,
    fan_average,
    fan_in,
    rn,
    tn,
    variance_scaling,
    vs,
    vs_h,
    vs_x,
)
from secateur.lab.models._own import admit, admitted
from secateur.lab.models._recurrent import RowReader, gru, lstm
from secateur.lab.models._registry import Entry, build, catalogue, check, skeleton
from secateur.lab.models._wide_resnet import WideBlock, wrn

__all__ = [
    "Counts",
    "Entry",
    "Initial",
    "Initialiser",
    "RowReader",
    "WideBlock",
    "admit",
    "admitted",
    "alexnet",
    "build",
    "catalogue",
    "check",
    "count",
    "fan_average",
    "fan_in",
    "gru",
    "lenet_5_caffe",
    "lenet_300_100",
    "lstm",
    "mlp",
    "rn",
    "skeleton",
    "tn",
    "variance_scaling",
    "vgg",
    "vgg_c",
    "vgg_d",
    "vgg_like",
    "vs",
    "vs_h",
    "vs_x",
    "wrn",
]
