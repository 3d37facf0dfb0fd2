"""What a compiled step takes: inputs that the kernels can read, class numbers, and their loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur._base.arguments import named
from secateur._base.errors import SecateurError

__all__ = ["mean_loss", "refuse_inputs", "refuse_targets"]


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, as torch computes it."""
    try:
        return nn.functional.cross_entropy(outputs, targets)
    except IndexError as error:  # labels that are no class
        raise SecateurError(str(error)) from None


def refuse_inputs(x: Tensor) -> None:
    """Raise unless the kernels can read these inputs."""
    if getattr(x, "dtype", None) is not torch.float32 or not x.is_cpu or x.layout is not torch.strided:
        _refuse_others("inputs", x)
        kind = str(x.dtype).removeprefix("torch.")
        layout = "" if x.layout is torch.strided else f", {x.layout}".replace("torch.", "")
        raise SecateurError(f"the inputs must be float32 on cpu, got {kind} on {x.device.type}{layout}")


def refuse_targets(targets: Tensor, samples: int) -> None:
    """Raise unless the kernels can read these class numbers, one per sample."""
    if getattr(targets, "dtype", None) is not torch.int64 or not targets.is_cpu or targets.shape != (samples,):
        _refuse_others("targets", targets)
        raise SecateurError(
            f"`targets` must be {samples} class numbers, int64 on cpu, got {targets.dtype} of shape "
            f"{tuple(targets.shape)} on {targets.device.type}"
        )
    if not targets.is_contiguous():
        raise SecateurError("`targets` must be contiguous; call targets.contiguous()")


def _refuse_others(what: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise SecateurError(f"the {what} must be a torch tensor, got {named(value)}; torch.as_tensor(…) makes one")
