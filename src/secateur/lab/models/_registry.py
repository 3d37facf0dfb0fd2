"""The networks by name: the string layer in front of the functions that build them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from secateur._base.errors import SecateurError, nearest
from secateur.lab.models._chains import (
    alexnet,
    lenet_5_bn,
    lenet_5_caffe,
    lenet_5_caffe_relu,
    lenet_300_100,
    mlp,
    vgg_c,
    vgg_d,
    vgg_like,
)
from secateur.lab.models._counts import Counts, count
from secateur.lab.models._init import Initialiser, vs_h
from secateur.lab.models._own import make_own
from secateur.lab.models._recurrent import gru, lstm
from secateur.lab.models._wide_resnet import wrn
from secateur.lab.own import is_own

Architecture = Callable[[tuple[int, ...], int], nn.Module]

_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Args:
        name: what `build` calls it.
        summary: what it is, in a line.
        in_shape: the input it has in the paper; `build` takes it where none is given.
        counts: its parameters there, with 10 classes.
    """

    name: str
    summary: str
    in_shape: tuple[int, ...]
    counts: Counts


@dataclass(frozen=True)
class _Known:
    summary: str
    in_shape: tuple[int, ...]
    make: Architecture


_KNOWN: dict[str, _Known] = {
    "lenet-300-100": _Known("two hidden layers, ReLU", _GREY, lenet_300_100),
    "lenet-5-caffe": _Known("two convolutions, two linear layers", _GREY, lenet_5_caffe),
    "lenet-5-caffe-relu": _Known("lenet-5-caffe with a ReLU behind each convolution", _GREY, lenet_5_caffe_relu),
    "lenet-5-bn": _Known("lenet-5-caffe with batch norm and ReLU", _GREY, lenet_5_bn),
    "alexnet-s": _Known("five convolutions, two hidden layers of 1024", _COLOUR, partial(alexnet, k=1)),
    "alexnet-b": _Known("five convolutions, two hidden layers of 2048", _COLOUR, partial(alexnet, k=2)),
    "vgg-c": _Known("13 convolutions, three of them 1×1, two hidden layers", _COLOUR, vgg_c),
    "vgg-d": _Known("13 convolutions, two hidden layers", _COLOUR, vgg_d),
    "vgg-like": _Known("13 convolutions, one hidden layer", _COLOUR, vgg_like),
    "wrn-16-8": _Known("16-layer residual net, 8 times as wide", _COLOUR, partial(wrn, depth=16, width=8)),
    "wrn-16-10": _Known("16-layer residual net, 10 times as wide", _COLOUR, partial(wrn, depth=16, width=10)),
    "wrn-22-8": _Known("22-layer residual net, 8 times as wide", _COLOUR, partial(wrn, depth=22, width=8)),
    "lstm-s": _Known("LSTM of 128 units over the image's rows", _GREY, partial(lstm, units=128)),
    "lstm-b": _Known("LSTM of 256 units over the image's rows", _GREY, partial(lstm, units=256)),
    "gru-s": _Known("GRU of 128 units over the image's rows", _GREY, partial(gru, units=128)),
    "gru-b": _Known("GRU of 256 units over the image's rows", _GREY, partial(gru, units=256)),
}
_FAMILIES = "mlp-INPUTS-HIDDEN-…-CLASSES, lenet-5-FILTERS-FILTERS-HIDDEN or wrn-DEPTH-WIDTH"


def build(
    name: str,
    *,
    generator: torch.Generator,
    num_classes: int = 10,
    in_shape: tuple[int, ...] | None = None,
    init: Initialiser = vs_h,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build a network by name and initialise it; the global random state is left as found.

    Beside the names of `catalogue()`: `mlp-784-4096-4096-10` (inputs, hidden widths, classes), `wrn-28-10`.

    Args:
        name: which network.
        generator: draws the weights, on its own device: the same state gives the same weights everywhere.
        num_classes: units of the last layer.
        in_shape: of one input, (channel, row, column); by default the paper's.
        init: the initialiser, a function of `secateur.lab.models`; a network of one's own (`admit`) has its own.
        device: where the model goes after it was made.

    Raises:
        SecateurError: unknown name, or sizes that do not fit.

    >>> model = build("lenet-300-100", in_shape=(1, 8, 8), generator=torch.Generator().manual_seed(0))
    >>> model.fc1
    Linear(in_features=64, out_features=300, bias=True)
    """
    if is_own(name):
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return make_own(name, seed, in_shape, num_classes).to(device)
    model = _make(name, in_shape, num_classes)
    init(model, generator=generator)
    return model.to(device)


def check(name: str, *, num_classes: int = 10, in_shape: tuple[int, ...] | None = None) -> None:
    """Refuse what `build` would refuse, without the memory and the time of a network: nothing is drawn.

    Raises:
        SecateurError: unknown name, or sizes that do not fit.

    >>> check("wrn-16-10")
    """
    skeleton(name, num_classes=num_classes, in_shape=in_shape)


def skeleton(name: str, *, num_classes: int = 10, in_shape: tuple[int, ...] | None = None) -> nn.Module:
    """Build a network by name on the meta device: its layers and shapes, without memory and without values.

    Raises:
        SecateurError: unknown name, or sizes that do not fit.
    """
    if is_own(name):
        return make_own(name, 0, in_shape, num_classes)
    with torch.device("meta"):
        return _make(name, in_shape, num_classes)


def catalogue() -> dict[str, Entry]:
    """Return the networks of the paper by name, with the parameters they have there.

    >>> catalogue()["lenet-5-caffe"].counts.total
    431080
    """
    entries = {}
    for name, known in _KNOWN.items():
        counts = count(skeleton(name))  # a hundred million weights are counted at once
        entries[name] = Entry(name, known.summary, known.in_shape, counts)
    return entries


def _make(name: str, in_shape: tuple[int, ...] | None, num_classes: int) -> nn.Module:
    if num_classes < 1:
        raise SecateurError(f"`num_classes` must be 1 or more, got {num_classes}.")
    shape, make = _resolve(name, in_shape, num_classes)
    # PyTorch's layers draw when they are made; those draws are overwritten, and must not move anyone's state.
    with torch.random.fork_rng(devices=[]):
        return make(shape, num_classes)


def _resolve(name: str, in_shape: tuple[int, ...] | None, num_classes: int) -> tuple[tuple[int, ...], Architecture]:
    known = _KNOWN.get(name)
    if known is not None:
        return in_shape or known.in_shape, known.make
    if re.fullmatch(r"wrn-\d+-\d+", name):
        depth, width = (int(part) for part in name.split("-")[1:])
        return in_shape or _COLOUR, partial(wrn, depth=depth, width=width)
    if re.fullmatch(r"lenet-5(-[1-9]\d*){3}", name):
        first, second, hidden = (int(part) for part in name.split("-")[2:])
        return in_shape or _GREY, partial(lenet_5_caffe_relu, widths=(first, second, hidden))
    if re.fullmatch(r"mlp(-[1-9]\d*){2,}", name):
        inputs, *hidden, outputs = (int(part) for part in name.split("-")[1:])
        return _mlp_shape(name, inputs, outputs, in_shape, num_classes), partial(mlp, hidden=tuple(hidden))
    known_names = ", ".join(_KNOWN)
    hint = nearest(name, _KNOWN)
    raise SecateurError(f"`name` must be one of {known_names}, or like {_FAMILIES}; got {name!r}.{hint}")


def _mlp_shape(
    name: str, inputs: int, outputs: int, in_shape: tuple[int, ...] | None, num_classes: int
) -> tuple[int, ...]:
    shape = in_shape or (inputs,)
    size = torch.Size(shape).numel()
    if (size, num_classes) != (inputs, outputs):
        middle = "-".join(name.split("-")[2:-1])
        fitting = "-".join(part for part in ("mlp", str(size), middle, str(num_classes)) if part)
        raise SecateurError(
            f"`name` {name!r} has {inputs} inputs and {outputs} classes, but the data have {size} and "
            f"{num_classes}. Did you mean {fitting!r}?"
        )
    return shape
