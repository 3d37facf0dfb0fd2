"""Prices paid: the gradient of a penalty joins that of the loss just before the optimizer's step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def charge(price: Tensor | None, trained: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
    """Add ∂price/∂p to the gradient of each parameter that this optimizer trains; others see to their own."""
    if price is None or not price.requires_grad:
        return
    scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides a GradScaler's scale out itself
    grads = torch.autograd.grad(price, trained, scale, allow_unused=True)
    for each, grad in zip(trained, grads, strict=True):
        if grad is not None:
            each.grad = grad.clone() if each.grad is None else each.grad.add_(grad)


def group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """The group of an optimizer that a parameter is trained in."""
    found = (group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
    return next(found, None)


def rate_of(optimizer: Optimizer, parameter: nn.Parameter) -> float:
    """The learning rate with which an optimizer trains a parameter; 0 where it does not."""
    group = group_of(optimizer, parameter)
    return 0.0 if group is None else float(group["lr"])
