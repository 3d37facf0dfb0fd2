"""What must not change about a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapshot:
    """Modes, hooks, flags, keys, buffers and gradients of a model."""

    modes: tuple[bool, ...]
    hooks: tuple[int, ...]
    requires_grad: tuple[bool, ...]
    keys: tuple[str, ...]
    buffers: dict[str, Tensor]
    grads: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        """Take one of `model`."""
        modules, parameters = list(model.modules()), dict(model.named_parameters())
        return cls(
            modes=tuple(module.training for module in modules),
            hooks=tuple(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)
            + tuple(len(p._backward_hooks or ()) for p in parameters.values()),
            requires_grad=tuple(p.requires_grad for p in parameters.values()),
            keys=tuple(model.state_dict()),
            buffers={name: buffer.clone() for name, buffer in model.named_buffers()},
            grads={name: p.grad.clone() for name, p in parameters.items() if p.grad is not None},
        )

    def same(self, other: Snapshot) -> bool:
        """Whether another snapshot shows the same, in every bit."""
        plain = all(getattr(self, what) == getattr(other, what) for what in ("modes", "hooks", "requires_grad", "keys"))
        kept = all(
            one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
            for one, two in ((self.buffers, other.buffers), (self.grads, other.grads))
        )
        return plain and kept
