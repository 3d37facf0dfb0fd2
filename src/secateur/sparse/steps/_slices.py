"""What every compiled step shares: what it refuses, and its part of a torch parameter with the optimizer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base import door
from secateur._base.errors import MaskError
from secateur._base.finite import all_finite
from secateur.sparse.calls import addresses
from secateur.sparse.plans import ListedPlaces, Places, floats
from secateur.sparse.programs import UnsupportedError

__all__ = [
    "Loss",
    "Slice",
    "carry_slices",
    "make_slice",
    "read_slices",
    "refuse_loss",
    "refuse_parameter",
    "spread",
    "write_slices",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def refuse_loss(loss: Loss) -> None:
    """Raise unless the loss is the mean cross-entropy."""
    plain = loss is nn.functional.cross_entropy or (
        isinstance(loss, nn.CrossEntropyLoss)
        and type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and (loss.reduction, loss.ignore_index, loss.label_smoothing) == ("mean", -100, 0.0)
        and not (loss._forward_hooks or loss._forward_pre_hooks)
    )
    if not plain:
        shown = getattr(loss, "__name__", repr(loss))
        raise UnsupportedError(f"`loss` must be cross_entropy or a CrossEntropyLoss with default options, got {shown}")


def refuse_parameter(name: str, parameter: Tensor) -> None:
    """Raise unless the kernels can train this parameter: float32 on the CPU, finite, not frozen."""
    if parameter.dtype is not torch.float32 or parameter.device.type != "cpu" or not parameter.is_contiguous():
        kind = str(parameter.dtype).removeprefix("torch.")
        order = "contiguous" if parameter.is_contiguous() else "not contiguous"
        raise UnsupportedError(
            f"{name!r} must be contiguous float32 on cpu, got {kind} on {parameter.device.type}, {order}"
        )
    if not parameter.requires_grad:
        raise UnsupportedError(f"{name!r} does not require a gradient: frozen layers are not supported")
    if 0 in parameter.shape:
        raise UnsupportedError(f"{name!r} is empty, of shape {tuple(parameter.shape)}")
    if not all_finite(parameter.detach()):
        raise MaskError(f"{name!r} has NaN or infinite weights; load a checkpoint from before the run diverged")


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of one torch parameter that the engine trains, and its optimizer state there.

    `places` are where in the dense parameter its values stand: those with gradients, then those that only decay
    because nothing depends on their unit. `keep` has a 1 for each place that may change and a 0 for the others;
    None lets all change.
    """

    parameter: Tensor
    places: Places
    active: int
    value: Tensor
    state: tuple[Tensor, ...]
    keep: Tensor | None = None


def make_slice(parameter: Tensor, places: Places | Tensor, active: int, slots: int) -> Slice:
    """Make room for these places of a parameter and `slots` tensors of optimizer state, which is zero."""
    found = ListedPlaces(places) if isinstance(places, Tensor) else places
    value, *state = (floats(len(found)) for _ in range(1 + slots))
    return Slice(parameter, found, active, value, tuple(state))


def spread(values: Tensor, places: Places, target: Tensor) -> None:
    """Write values to their places in a dense tensor of any type, device and order, and zeros everywhere else."""
    if target.dtype is values.dtype and target.device == values.device and target.is_contiguous():
        places.put(values, target.zero_())
    else:
        dense = values.new_zeros(target.shape)
        places.put(values, dense)
        target.copy_(dense)


def write_slices(slices: Iterable[Slice], optimizer: Optimizer, slots: tuple[str, ...], steps: int) -> None:
    """Bring the torch parameters and the optimizer's state up to date with the engine's, after `steps` steps."""
    for piece in slices:
        spread(piece.value, piece.places, piece.parameter)
        if not steps or not slots:
            continue  # then torch has no state either
        state = optimizer.state[piece.parameter]
        for slot, tensor in zip(slots, piece.state, strict=True):
            found = state.get(slot)
            if not isinstance(found, Tensor) or found.shape != piece.parameter.shape:
                state[slot] = torch.zeros_like(piece.parameter)
            spread(tensor, piece.places, state[slot])
        if "exp_avg" in slots:
            state["step"] = torch.tensor(float(steps), dtype=torch.float32, device="cpu")


def read_slices(slices: Iterable[Slice], optimizer: Optimizer, slots: tuple[str, ...]) -> None:
    """Take the torch parameters and the optimizer's state into the engine's values."""
    for piece in slices:
        piece.places.take(piece.parameter, piece.value)
        state = optimizer.state.get(piece.parameter, {})
        for slot, tensor in zip(slots, piece.state, strict=True):
            found = state.get(slot)
            if found is not None:
                piece.places.take(found, tensor)
            elif len(tensor) and bool(torch.linalg.vector_norm(tensor, float("inf"))):
                # Looked at first: to write zeros over those that nobody has touched would take memory.
                tensor.zero_()


def carry_slices(old: Iterable[Slice], made: Iterable[Slice]) -> None:
    """Take values and state over from slices of the same parameters: zero where there was nothing, or may not be."""
    native: Any = door.native
    before = {id(piece.parameter): piece for piece in old}
    for piece in made:
        source = before[id(piece.parameter)]
        tensors = (piece.value, *piece.state)
        native.carry(
            source.places.listed().numpy(), piece.places.listed().numpy(), piece.parameter.numel(),
            addresses(source.value, *source.state), addresses(*tensors),
        )  # fmt: skip
        if piece.keep is not None:
            for tensor in tensors:
                tensor.mul_(piece.keep)
