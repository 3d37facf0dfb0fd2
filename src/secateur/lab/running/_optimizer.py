"""The torch optimizer that a recipe describes: made, given its rate, its memory saved and put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.lab.experiment import Adam, Sgd


def build_optimizer(model: nn.Module, optimizer: Sgd | Adam) -> torch.optim.Optimizer:
    """Return the torch optimizer that a recipe's value describes; the learning rate is set at each step."""
    if isinstance(optimizer, Sgd):
        return torch.optim.SGD(
            model.parameters(),
            lr=0.0,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
    return torch.optim.Adam(
        model.parameters(),
        lr=0.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
    )


def pull_to_zero(model: nn.Module, l1: float) -> None:
    """Add λ₁·sign(w) to the gradients, where there are any."""
    for parameter in model.parameters() if l1 else ():
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach().sign(), alpha=l1)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_of_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Flatten the memory of an optimizer: `"<slot>/<parameter>"` → tensor."""
    return {
        f"{slot}/{name}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a memory back where `state_of_optimizer` found it."""
    names = dict(model.named_parameters())
    for key, value in state.items():
        slot, _, name = key.partition("/")
        if name not in names:
            raise SecateurError(f"the checkpoint holds {slot!r} of {name!r}, which the model does not have.")
        parameter = names[name]
        # Adam's step counter lives on the CPU whatever the device; the moments live beside the parameter, in its memory
        # format too: another order of the elements may round otherwise.
        beside = value.shape == parameter.shape
        optimizer.state[parameter][slot] = torch.empty_like(parameter.detach()).copy_(value) if beside else value
