"""Whether the tensors that a compiled step was made of are still the model's, and still what they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

__all__ = ["Watch", "refuse_form"]

_NOWHERE = -1  # no tensor has this address


@dataclass(frozen=True, eq=False)
class _Owned:
    """Where the model keeps a tensor: under `key` among a module's parameters or buffers; and the tensor.

    A parameter must stay the one that the optimizer has, too. Buffers are set anew by whatever moves a model.
    """

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    owner: Mapping[str, Tensor | None]
    key: str
    buffer: bool

    def now(self) -> Tensor:
        """Return the tensor that is there now; raise if it cannot be followed."""
        tensor = self.owner.get(self.key)
        if tensor is None or (tensor is not self.tensor and not self.buffer):
            raise SecateurError(
                f"{self.name!r} of the model is another tensor than the one that this step was compiled with (set "
                "anew, or by load_state_dict(assign=True)), which the step goes on to train. Compile a new step, "
                "with an optimizer over the parameters that the model has now"
            )
        if tuple(tensor.shape) != self.shape:
            raise SecateurError(
                f"{self.name!r} must have the shape {self.shape}, as when this step was compiled, got "
                f"{tuple(tensor.shape)}. Compile a new step"
            )
        return tensor


class Watch:
    """The tensors of a model of which an engine has its own copy.

    `model.half()`, `.to(device)`, `load_state_dict(assign=True)` and `parameter.data = …` move tensors or put others
    into their places. Addresses and versions are looked at before every step, which takes a fifth of a microsecond for
    each tensor; what else may have changed, once one of these has.
    """

    def __init__(self, model: nn.Module, tensors: Iterable[Tensor]) -> None:
        wanted = {id(tensor) for tensor in tensors}
        self._owned: list[_Owned] = []
        for path, module in model.named_modules():
            for owner in (module._parameters, module._buffers):
                for key, tensor in owner.items():
                    if tensor is not None and id(tensor) in wanted:
                        name = f"{path}.{key}" if path else key
                        shape, buffer = tuple(tensor.shape), owner is module._buffers
                        self._owned.append(_Owned(name, tensor, shape, owner, key, buffer))
        self._marks: list[tuple[Mapping[str, Tensor | None], str, Tensor, int, int]] = []

    def note(self) -> None:
        """Take the tensors as they are now for unchanged."""
        self._marks = []
        for o in self._owned:
            tensor = o.now()
            place = tensor.data_ptr() if _fits(tensor) else _NOWHERE
            self._marks.append((o.owner, o.key, tensor, tensor._version, place))

    def refuse_changes(self) -> None:
        """Raise if a tensor was replaced, moved or written to since the last note; this runs at every step."""
        for index, (owner, key, tensor, version, place) in enumerate(self._marks):
            if owner.get(key) is not tensor or tensor._version != version or tensor.data_ptr() != place:
                self.refuse_replaced()
                self.refuse_moved()
                raise SecateurError(
                    "the model's weights were changed outside the fused step; call read_back() to take them up, or "
                    f"write_back() to put the trained ones over them ({self._owned[index].name!r} was changed)"
                )

    def refuse_other_parameters(self) -> None:
        """Raise if the model has another tensor where the step knows a parameter; its own values are at hand."""
        for owner, key, tensor, _, _ in self._marks:
            if owner.get(key) is not tensor:
                self.refuse_replaced()

    def refuse_replaced(self) -> None:
        """Raise if the model has another tensor, or one of another shape, where the step knows one."""
        for o in self._owned:
            o.now()

    def refuse_moved(self) -> None:
        """Raise if a tensor has become one that the engine cannot follow."""
        for o in self._owned:
            refuse_form(o.name, o.now(), o.shape)


def refuse_form(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a tensor of the model is what it was when the step was compiled: contiguous float32 on the CPU."""
    if _fits(tensor) and tuple(tensor.shape) == shape:
        return
    kind = str(tensor.dtype).removeprefix("torch.")
    order = "" if tensor.is_contiguous() else ", not contiguous"
    raise SecateurError(
        f"{name!r} must be contiguous float32 on cpu of shape {shape}, as when this step was compiled, got {kind} on "
        f"{tensor.device.type} of shape {tuple(tensor.shape)}{order}. Bring the model back (model.float(), "
        "model.cpu()) and call write_back(), which puts the trained values into it"
    )


def _fits(tensor: Tensor) -> bool:
    plain = tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided
    return plain and tensor.is_contiguous() and not tensor.is_neg()
