"""The running statistics of a network's normalisations, which a compiled step keeps in the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.sparse.steps._watch import refuse_form

__all__ = ["Statistics"]

_RUNNING = ("running_mean", "running_var")


@dataclass(eq=False)
class _Buffer:
    """One of them: its slot in the native network, and the tensor and address that the engine was told."""

    slot: int
    owner: dict[str, Tensor | None]
    key: str
    name: str
    shape: tuple[int, ...]
    told: tuple[Tensor | None, int]


class Statistics:
    """Running means and variances, wherever the model keeps them at the moment."""

    def __init__(self, model: nn.Module, norms: Sequence[nn.Module]) -> None:
        names = {id(module): path for path, module in model.named_modules()}
        self._norms = [(norm, names[id(norm)], _options(norm)) for norm in norms]
        self._shapes = {id(norm): tuple(norm.get_buffer("running_mean").shape) for norm in norms}
        self._buffers: list[_Buffer] = []

    def place(self, slots: Sequence[tuple[nn.Module, str]]) -> None:
        """Learn which slots of a new engine want them."""
        paths = {id(norm): path for norm, path, _ in self._norms}
        self._buffers = [
            _Buffer(slot, m._buffers, name, f"{paths[id(m)]}.{name}", self._shapes[id(m)], (None, 0))
            for slot, (m, name) in enumerate(slots)
            if name in _RUNNING
        ]

    def point(self, engine: Any) -> None:
        """Tell the engine where they are, if somebody has moved them; this runs at every step."""
        for buffer in self._buffers:
            tensor = buffer.owner.get(buffer.key)
            known, place = buffer.told
            if tensor is not known or tensor is None or tensor.data_ptr() != place or tensor.dtype is not torch.float32:
                tensor = _there(buffer.name, tensor, buffer.shape)
                engine.set_constant(buffer.slot, tensor.data_ptr(), tensor.numel())
                buffer.told = (tensor, tensor.data_ptr())

    def refuse_moved(self) -> None:
        """Raise unless the kernels can read them."""
        for norm, path, _ in self._norms:
            for key in _RUNNING:
                _there(f"{path}.{key}", norm._buffers.get(key), self._shapes[id(norm)])

    def refuse_options(self) -> None:
        """Raise if ε or the momentum of a normalisation is no longer what the step was compiled with."""
        for norm, path, options in self._norms:
            if _options(norm) != options:
                raise SecateurError(
                    f"{path!r} had (eps, momentum) = {options} when the step was compiled, and has {_options(norm)} "
                    "now; call write_back() and compile a new step"
                )

    def count_batch(self) -> None:
        """Count a batch as torch's modules do."""
        for norm, _, _ in self._norms:
            count = norm._buffers.get("num_batches_tracked")
            if count is not None:
                count.add_(1)


def _options(norm: Any) -> tuple[float, float]:
    return norm.eps, norm.momentum


def _there(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if tensor is None:
        raise SecateurError(f"the model has no {name!r} any more, where this step keeps it; compile a new step")
    refuse_form(name, tensor, shape)
    return tensor
