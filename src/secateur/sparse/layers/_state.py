"""What sparse layers share: the dense layer they stand for, its state_dict, and the way back to it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.types import Float
from secateur.sparse.calls import text_for_lookers
from secateur.sparse.layers._built import built
from secateur.sparse.layers._choosing import Choosing
from secateur.sparse.plans import Survivors

Plan = TypeVar("Plan", bound=Survivors)
Layer = TypeVar("Layer", bound=nn.Module)


class DenseState(Choosing, nn.Module):
    """A module that stands for a dense one: it gives and takes its state_dict, and can become it again."""

    compute_dense: bool
    stores_survivors = True  # `secateur._base.arguments` asks for it: floors below do not know these layers

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense tensors by name, connected to the parameters by autograd."""
        raise NotImplementedError

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return the shape of the dense tensor behind each parameter of surviving values, by the parameter's name."""
        raise NotImplementedError

    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense tensor of the right shape into the parameters; or change nothing and return what is wrong."""
        raise NotImplementedError

    def dense(self) -> nn.Module:
        """Return the dense module, with copies of the weights as they are now, bit for bit."""
        raise NotImplementedError

    def multiplied(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return the dense tensors for a dense product: without gradients they are built once, and again when a
        parameter changes, so that a layer that computes densely takes a dense layer's time.

        Args:
            dtype: what they are rounded to, where they are built once; None: as they are.
        """
        parameters = list(self.parameters(recurse=False))
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if learns or any(p.is_inference() for p in parameters):
            self.__dict__.pop("_built", None)
            state, told = self.dense_state(), self.__dict__.get("_told")
            if told is not None and state["weight"].requires_grad:
                state["weight"].register_hook(told)
            return list(state.values())
        key = [dtype, *((p.data_ptr(), p._version, p.dtype) for p in parameters)]
        built: tuple[object, list[Tensor], object] | None = self.__dict__.get("_built")
        if built is None or built[0] != key:
            with torch.inference_mode(mode=False), torch.no_grad():  # whoever is next may want a gradient of its input
                made = [t.detach().to(dtype or t.dtype).contiguous() for t in self.dense_state().values()]
                held = [p.detach() for p in parameters]  # so that nothing else comes to lie at their addresses
            built = self.__dict__["_built"] = (key, made, held)
        return built[1]

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode. What was built is built anew: `.data` is written without a trace."""
        self.__dict__.pop("_built", None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        left = ("_built", "_told")  # it can be built again, and a copy tells nobody
        return {key: value for key, value in self.__dict__.items() if key not in left}

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("weight"):
            raise SecateurError(
                f"{type(self).__name__} has no {name!r} of its own to be set: it is built from the surviving values. "
                "Bring a whole weight in by load_state_dict, or take secateur.densify(model)."
            )
        super().__setattr__(name, value)

    def __prepare_scriptable__(self) -> nn.Module:
        raise SecateurError(text_for_lookers())  # torch.jit.script asks before it compiles

    def _warn_dense(self, x: Tensor, values: Tensor, *, stacklevel: int) -> None:
        """Say why the kernels do not compute this input; `stacklevel` leads to the caller of the layer."""
        kind = f"{x.dtype} on {x.device.type}".removeprefix("torch.")
        warnings.warn(
            f"{type(self).__name__} computes densely: its kernels take float32 on cpu, got {kind} with "
            f"{str(values.dtype).removeprefix('torch.')} weights on {values.device.type}. "
            "Use secateur.densify(model) there.",
            stacklevel=stacklevel + 1,
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.dense_state().items():
            own = tensor is self._parameters.get(name) or tensor is self._buffers.get(name)
            value = tensor if keep_vars else tensor.detach()
            whose = f"{type(self).__name__}.{name}"
            destination[prefix + name] = value if own else built(value, whose, live=keep_vars)

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
            ours = (key for key in own if key.removeprefix(prefix).partition(".")[0] not in self._modules)
            unexpected_keys.extend(key for key in ours if key.removeprefix(prefix) not in current)


class WeightState(DenseState, Generic[Plan]):
    """A layer of one weight and perhaps a bias. `plan` says where the weight's `values` are."""

    def __init__(
        self,
        plan: Plan,
        values: Float[Tensor, " kept"],
        bias: Float[Tensor, " _"] | None,
        *,
        compute_dense: bool = False,
    ) -> None:
        super().__init__()
        self.plan, self.compute_dense = plan, compute_dense
        self.values = nn.Parameter(values)
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def weight(self) -> Tensor:
        """The dense weight, built when asked for, to be read. Gradients flow through it into `values`."""
        return built(self.plan.scatter(self.values), f"{type(self).__name__}.weight", live=True)

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weight and the bias."""
        return {"weight": self.plan.scatter(self.values)} | ({} if self.bias is None else {"bias": self.bias})

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return the shape of the dense weight."""
        return {"values": self.plan.shape}

    def tell_of_dense(self, told: Callable[[Tensor], None] | None) -> None:
        """Have the gradient of the dense weight told wherever it is multiplied densely; None: no more."""
        self.__dict__.pop("_told", None)
        if told is not None:
            self.__dict__["_told"] = told

    @torch.no_grad()
    def take(self, name: str, found: Tensor) -> str | None:
        """Copy a dense weight or a bias in, or say why not."""
        if name == "weight":
            return take_survivors(self.values, self.plan.gather(found.detach()), found)
        self.get_parameter("bias").copy_(found)
        return None


Sparse = TypeVar("Sparse", bound=WeightState[Any])


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


def thinned(kind: type[Sparse], plan: Survivors, dense: Any) -> Sparse:
    """Take the weights that the plan keeps out of a dense layer, as copies; the rest is left behind."""
    return thinned_onto(kind, plan, dense.weight, dense.bias).train(dense.training)


def thinned_onto(kind: type[Sparse], plan: Survivors, weight: Tensor, bias: Tensor | None) -> Sparse:
    """Make a sparse layer of what the plan keeps of a weight that lies as the plan says, and of a bias, as copies."""
    sparse = kind(plan, plan.gather(weight.detach()), None if bias is None else bias.detach().clone())
    sparse.values.requires_grad_(weight.requires_grad)
    if sparse.bias is not None and bias is not None:
        sparse.bias.requires_grad_(bias.requires_grad)
    return sparse


def copied_as(kind: type[Layer], layer: nn.Module) -> Layer:
    """Copy a layer, the copy being of another class that has the same parameters."""
    made: Any = copy.deepcopy(layer)
    made.__class__ = kind
    return made


def fill(layer: Layer, weight: Tensor, like: Any, *, trains: bool) -> Layer:
    """Give a dense layer that was made on "meta" this weight, and copies of what else the module `like` has."""
    layer.weight = nn.Parameter(weight, requires_grad=trains)
    if like.bias is not None:
        layer.bias = nn.Parameter(like.bias.detach().clone(), requires_grad=like.bias.requires_grad)
    return layer.train(like.training)
