"""One held parameter: where it lives, its mask, and the hook that masks its gradient.

The gradient is masked as soon as backward has accumulated it, in place: before a trainer clips or unscales
it. A method that lets weights grow asks for the gradient as it was before that; it is copied then, and only then.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur._base import shards
from secateur._base.zeros import zero_
from secateur.masks import Masks


class Slot:
    """Holds one parameter at zero where its mask says so; `fired` is set when backward has called its hook.

    It refers to the module that owns the parameter weakly and to the parameter by name only: a model that
    is thrown away is freed at once, one whose parameters are replaced (`fully_shard`, `to_empty`) stays held.
    """

    __slots__ = (
        "__weakref__",
        "_dense",
        "_forward_handle",
        "_grad_handle",
        "_mask",
        "_owner",
        "_pruned",
        "_seen_from",
        "asked",
        "attribute",
        "fired",
        "name",
        "seen",
    )

    def __init__(self, name: str, owner: nn.Module, attribute: str, mask: Tensor) -> None:
        self.name = name
        self.attribute = attribute
        self.fired = False
        self.asked = False  # whether the dense gradient of the present step is wanted
        self.seen: Tensor | None = None
        self._seen_from: tuple[int, int] | None = None
        self._owner = weakref.ref(owner)
        self._pruned: dict[object, Tensor] = {}
        self.replace_mask(mask)
        self._grad_handle: RemovableHandle | None = None
        self._forward_handle: RemovableHandle | None = None

    def owner(self) -> nn.Module | None:
        """Return the module that the parameter is registered in; None once that module is gone."""
        return self._owner()

    def move(self, owner: nn.Module) -> None:
        """Look for the parameter in another module from now on."""
        self._owner = weakref.ref(owner)

    def parameter(self) -> nn.Parameter | None:
        """Return the parameter as it is now; None if its module is gone or has no such parameter any more."""
        owner = self._owner()
        return None if owner is None else owner._parameters.get(self.attribute)

    def replace_mask(self, mask: Tensor) -> None:
        """Hold by another mask from now on. Writes nothing."""
        self._mask = mask
        self._pruned.clear()
        self._dense = bool(mask.all())  # so far nothing is pruned here: nothing to write

    def pruned(self, tensor: Tensor) -> Tensor:
        """Return True where this process's part of `tensor` (the parameter or its gradient) is pruned."""
        place = (tensor.device, *shards.layout(tensor))
        if place not in self._pruned:
            if len(self._pruned) > 1:  # a sharded parameter lives in two places, whole and cut; no more
                self._pruned.clear()
            self._pruned[place] = ~shards.local_mask(self._mask, tensor)
        return self._pruned[place]

    def project(self, parameter: nn.Parameter) -> None:
        """Write zeros over the pruned weights. Filling, not multiplying: 0 · NaN would stay NaN."""
        if not self._dense:
            zero_(shards.local(parameter), self.pruned(parameter))

    def mask_gradient(self, parameter: Tensor) -> None:
        """Write zeros over the pruned entries of the gradient, if there is a dense one."""
        grad = parameter.grad
        if grad is None or self._dense or grad.layout != torch.strided:
            return  # a sparse gradient (of an embedding) is left to the projection
        if shards.layout(grad) == shards.layout(parameter):
            zero_(shards.local(grad), self.pruned(parameter))

    def see(self, parameter: Tensor) -> None:
        """Copy the gradient before it is masked, if it is asked for.

        Where several backwards add up, the entries that were masked in between are added up here instead. A gradient
        that was cleared or replaced since the last look (`zero_grad`) starts anew.
        """
        grad = parameter.grad
        if not self.asked or grad is None or grad.layout != torch.strided:
            return
        # One more write than after our own last one: backward has added to what we saw.
        adds_up = self._seen_from == (grad.data_ptr(), grad._version - 1)
        if self.seen is None or self._dense or not adds_up:
            self.seen = shards.local(grad).detach().clone()
        else:
            self.seen = torch.where(self.pruned(parameter), self.seen + grad, grad)

    def forget(self) -> None:
        """Let go of the gradient that was seen."""
        self.seen = self._seen_from = None

    def hook(self, parameter: nn.Parameter) -> None:
        """See to it that gradients get masked from the next backward on. Cheap where that is so already."""
        if shards.is_sharded(parameter):
            self._hook_forward()
        else:
            self._hook_gradient(parameter)

    def unhook(self) -> None:
        """Take all hooks off again."""
        for handle in (self._grad_handle, self._forward_handle):
            if handle is not None:
                handle.remove()
        self._grad_handle = self._forward_handle = None

    def _hook_gradient(self, parameter: Tensor) -> None:
        hooks: dict[int, Any] = parameter._post_accumulate_grad_hooks or {}
        floats = parameter.is_floating_point() or parameter.is_complex()
        if not floats or parameter.is_inference() or (self._grad_handle is not None and self._grad_handle.id in hooks):
            return
        if self._grad_handle is not None:  # it sits on a parameter that has been replaced
            self._grad_handle.remove()
        trains = parameter.requires_grad
        # A frozen weight gets its hook too, which torch grants to none but those that train: it may be thawed.
        self._grad_handle = parameter.requires_grad_(True).register_post_accumulate_grad_hook(self._on_gradient)
        parameter.requires_grad_(trains)

    def _on_gradient(self, parameter: Tensor) -> None:
        self.fired = True
        self.see(parameter)
        self.mask_gradient(parameter)
        if self.asked and parameter.grad is not None:
            self._seen_from = (parameter.grad.data_ptr(), parameter.grad._version)

    def _hook_forward(self) -> None:
        # Autograd never sees FSDP2's sharded parameter. In the forward its module holds the gathered one
        # instead, a plain tensor that lives as long as the model: that is the one to hook.
        owner = self._owner()
        if self._forward_handle is None and owner is not None:
            self._forward_handle = owner.register_forward_pre_hook(self._on_forward)

    def _on_forward(self, module: nn.Module, inputs: Any) -> None:
        gathered = module._parameters.get(self.attribute)
        if gathered is not None and not shards.is_sharded(gathered):
            self._hook_gradient(gathered)


class Shelf:
    """What a module keeps of the holds over its parameters, so that they live as long as it does.

    `own` are holds of this very module and go along when it is copied or pickled. `kept` are holds of a
    module around it, kept alive for the case that the outer one is taken apart; a copy starts without them.
    """

    _PLACE = "_secateur_holds"

    own: list[Any]
    kept: list[Any]

    def __new__(cls) -> Shelf:
        shelf = super().__new__(cls)
        # Here, not in __init__: a hold being unpickled may put itself on a shelf that is not built yet.
        shelf.own, shelf.kept = [], []
        return shelf

    @staticmethod
    def of(module: nn.Module) -> Shelf:
        """Return the module's shelf, putting one up if there is none."""
        return module.__dict__.setdefault(Shelf._PLACE, Shelf())

    @staticmethod
    def seen(module: nn.Module) -> list[Any]:
        """Return the holds on the module's shelf, without putting one up."""
        shelf = module.__dict__.get(Shelf._PLACE)
        return [] if shelf is None else [*shelf.own, *shelf.kept]

    @staticmethod
    def clear(module: nn.Module, hold: object) -> None:
        """Take a hold off the module's shelf, and the shelf down if it is empty then."""
        shelf = module.__dict__.get(Shelf._PLACE)
        if shelf is None:
            return
        shelf.own = [other for other in shelf.own if other is not hold]
        shelf.kept = [other for other in shelf.kept if other is not hold]
        if not (shelf.own or shelf.kept):
            del module.__dict__[Shelf._PLACE]

    def __getstate__(self) -> list[Any]:
        return self.own

    def __setstate__(self, own: list[Any]) -> None:
        self.own = own


def slots_of(model: nn.Module, masks: Masks) -> list[Slot]:
    """One slot for each parameter that `masks` name; several names of a tied one are one slot."""
    homes: dict[int, tuple[nn.Module, str]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            homes.setdefault(id(parameter), (module, attribute))
    names = {id(parameter): name for name, parameter in masks.parameters(model).items()}
    return [Slot(name, *homes[key], masks[name]) for key, name in names.items()]


def leak_text(name: str, parameter: Tensor, leaks: Tensor) -> str:
    """Say where a pruned weight is not zero, and what to do about it."""
    numbers = torch.arange(parameter.numel(), device=parameter.device).reshape(parameter.shape)
    where = int(shards.local_mask(numbers, parameter)[leaks][0])
    value = shards.local(parameter).detach()[leaks][0].item()
    index = ", ".join(str(int(place)) for place in torch.unravel_index(torch.tensor(where), parameter.shape))
    return (
        f"{name}[{index}] is pruned but holds {value:.6g} (the first of {int(leaks.count_nonzero())} such in "
        f"{name!r}); something wrote it after the last optimizer step, load_state_dict perhaps: "
        "`project()` writes the zeros again"
    )
