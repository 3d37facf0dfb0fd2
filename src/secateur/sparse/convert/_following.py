"""A sparsified model that follows masks which change: those of a hold over the model that it was made of."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.behind import stand_by, trainers
from secateur._base.errors import MaskError, SecateurError
from secateur.holding import Hold, held, hold, watch
from secateur.masks import Masks
from secateur.sparse.convert._replant import forget_compiled, replant
from secateur.sparse.layers import DenseState, WeightState

_PLACE = "_secateur_following"


def changing_hold(model: nn.Module, masks: Masks) -> Hold | None:
    """Return the hold over the model whose masks change while it trains, if there is one; or refuse it by name."""
    found = [each for each in held(model) if each.active and each.changes]
    if not found:
        return None
    if len(found) > 1:
        raise MaskError(f"one hold may change the masks of a sparsified model, and {len(found)} would: {found!r}")
    own = found[0]
    if own.refuses is not None:
        raise MaskError(own.refuses)
    if trainers(model):
        raise MaskError("another sparsified model, or a compiled step, trains this model already; let go of it first")
    if own.masks != masks:
        raise MaskError(
            "the model is held by a hold that changes its masks, and a sparsified model follows those: call "
            "sparsify(model, pruner.masks), or end the other first (pruner.finish(), held.release())"
        )
    return own


class Following:
    """Keeps a sparsified model and the dense one that it was made of together, and the hold over the latter.

    The sparsified model trains; the dense one is behind until somebody looks at it. It lives as long as the sparsified
    one. Copies of that follow nobody.
    """

    def __init__(self, model: nn.Module, over: Hold, fast: nn.Module) -> None:
        self._model, self._hold, self._fast = model, over, weakref.ref(fast)
        self._layers = _layers(fast, over.masks)
        for each in held(fast):
            each.release()
        self._rest = hold(fast, Masks(rest)) if (rest := self._of_the_rest(over.masks)) else None
        self._masks = dict(over.masks)
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._seen: dict[str, Tensor] = {}
        self._names = {key: name for key, (name, _) in over.by_parameter().items()}
        self._computes = {name: layer.compute_dense for name, layer in self._layers.items()}
        fast.__dict__[_PLACE] = self
        self._note()
        self._ask()
        weakref.finalize(self, stand_by(self, [m for m in model.modules() if m._parameters], None)).atexit = False
        watch(self)

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> Any:
        return _nobody, ()

    # What the dense model asks for

    @torch.no_grad()
    def catch_up(self) -> None:
        """Write the trained weights into the dense model."""
        fast = self._fast()
        if fast is None or self._written() or _marks(fast) == self._fast_marks:
            return
        tensors: dict[str, Tensor] = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        for name, trained in fast.state_dict().items():
            tensors[name].copy_(trained)
        self._note()

    @torch.no_grad()
    def follow(self) -> None:
        """Take up the masks that the hold has written, and the weights under them."""
        fast = self._fast()
        if fast is None or not self._hold.active:
            return
        dense, masks = dict(self._model.named_parameters()), self._hold.masks
        for name, layer in self._layers.items():
            if masks[name] is not self._masks[name]:
                replant(layer, masks[name], self._optimizers)
            layer.values.copy_(layer.plan.gather(dense[name].detach()))
        if self._rest is not None:
            own = dict(fast.named_parameters())
            self._rest.replace(Masks(self._of_the_rest(masks), copy=False))
            for name in self._rest.masks:
                own[name].copy_(dense[name])
        self._masks = dict(masks)
        forget_compiled(fast)
        self._note()
        self._ask()

    # What the optimizer of the sparsified one does

    def _before_step(self, owned: Set[int], optimizer: Optimizer, closure: bool) -> None:
        if self._stepping(owned) and self._hold.active and self._written():
            raise SecateurError(
                "the model whose masks this sparsified one follows was written to; load into the sparsified model, or "
                "make it anew by sparsify"
            )

    def _after_step(self, owned: Set[int], optimizer: Optimizer) -> None:
        moved = self._stepping(owned)
        if not moved or not self._hold.active:
            return
        self._optimizers.add(optimizer)
        if self._hold.asks and self._rest is not None:
            self._seen |= self._rest.gradients()
        gradients = {key: self._seen[name] for key, name in self._names.items() if name in self._seen}
        self._hold.stepped(optimizer, moved, gradients=gradients)
        self._seen.clear()
        self._ask()

    def _stepping(self, owned: Set[int]) -> int:
        fast = self._fast()
        if fast is None:
            return 0
        own = dict(fast.named_parameters()) if self._rest is not None else {}
        held_here = [layer.values for layer in self._layers.values()] + [own[name] for name in self._names_of_rest()]
        return sum(id(parameter) in owned for parameter in held_here)

    def _ask(self) -> None:
        """Have the layers compute densely in the coming step if the dense gradients are asked for."""
        asks = self._hold.asks and self._hold.active
        for name, layer in self._layers.items():
            layer.compute_dense = asks or self._computes[name]
            layer.tell_of_dense(partial(self._see, name, layer) if asks else None)
        if self._rest is not None:
            self._rest.ask(asks)

    def _see(self, name: str, layer: WeightState[Any], gradient: Tensor) -> None:
        """Take a dense gradient; several backward passes of one step add up."""
        first = name not in self._seen or layer.values.grad is None
        self._seen[name] = gradient.detach().clone() if first else self._seen[name] + gradient

    # Bookkeeping

    def _names_of_rest(self) -> Iterable[str]:
        return () if self._rest is None else self._rest.masks

    def _of_the_rest(self, masks: Masks) -> dict[str, Tensor]:
        return {name: mask for name, mask in masks.items() if name not in self._layers}

    def _note(self) -> None:
        fast = self._fast()
        self._fast_marks = [] if fast is None else _marks(fast)
        self._dense_marks = _marks(self._model)

    def _written(self) -> bool:
        return _marks(self._model) != self._dense_marks


def _marks(model: nn.Module) -> list[tuple[int, int]]:
    return [(id(tensor), tensor._version) for tensor in model.parameters()]


def _layers(fast: nn.Module, masks: Masks) -> dict[str, WeightState[Any]]:
    """Return the sparse layers by the name of their dense weight."""
    found: dict[str, WeightState[Any]] = {}
    for path, module in fast.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, WeightState) and name in masks:
            found[name] = module
        elif isinstance(module, DenseState):
            raise SecateurError(f"{path!r} is a {type(module).__name__}, which cannot follow masks that change")
    return found


def _nobody() -> None:
    """What a copy of a sparsified model has in the place of whom it follows."""
