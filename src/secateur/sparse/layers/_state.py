"""What sparse layers share: a state_dict that is that of the dense layer they stand for."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from secateur._base.types import Float
from secateur.sparse.plans._convolution import ConvolutionPlan
from secateur.sparse.plans._linear import LayerPlan

__all__ = ["DenseState", "WeightState", "take_survivors"]

Plan = TypeVar("Plan", LayerPlan, ConvolutionPlan)


class DenseState(nn.Module):
    """A module that gives and takes the state_dict of a dense one. Subclasses say what that holds."""

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense tensors by name, connected to the parameters by autograd."""
        raise NotImplementedError

    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense tensor of the right shape into the parameters; or change nothing and return what is wrong."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.dense_state().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        current = self.dense_state()
        for name, tensor in current.items():
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            found, expected = state_dict[key], tuple(tensor.shape)
            if tuple(found.shape) != expected:
                error_msgs.append(f"size mismatch for {key}: {tuple(found.shape)}, expected {expected}")
            elif (wrong := self.take(name, found)) is not None:
                error_msgs.append(f"{key} {wrong}")
        if strict:
            own = (key for key in state_dict if key.startswith(prefix))
            unexpected_keys.extend(key for key in own if key.removeprefix(prefix) not in current)


class WeightState(DenseState, Generic[Plan]):
    """The same for one weight and perhaps a bias. `plan` says where the weight's `values` are."""

    plan: Plan
    values: nn.Parameter
    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The dense weight, built when asked for. Gradients flow through it into `values`."""
        return self.plan.scatter(self.values)

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weight and the bias."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight or a bias in, or say why not."""
        if name == "weight":
            return take_survivors(self.values, self.plan.gather(found.detach()), found)
        self.get_parameter("bias").copy_(found)
        return None


def take_survivors(parameter: nn.Parameter, values: Float[Tensor, " kept"], found: Tensor) -> str | None:
    """Copy the `values` that a mask keeps of a dense weight; or say how many others of it are not zero."""
    lost = int(found.count_nonzero()) - int(values.count_nonzero())
    if lost:
        return (
            f"has {lost} non-zero weights where the mask of this layer has none; "
            "apply the masks to it first (masks.apply_), or sparsify the model it belongs to"
        )
    parameter.copy_(values)
    return None
