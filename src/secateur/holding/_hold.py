"""hold: pruned weights stay zero, in any training loop, under any torch optimizer, at no forward cost.

Zeros live in the weights themselves; two hooks keep them there. One masks each gradient as soon as backward
has accumulated it, the other writes the zeros again after every optimizer step. Both are needed: a masked
gradient alone leaks through warm momentum and Muon, zeros alone let pruned gradients into Adafactor and Muon.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Set
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base import shards
from secateur._base.arguments import require_model
from secateur._base.behind import catch_up, follow
from secateur._base.errors import LeakError, MaskError
from secateur.holding import _steps, _wrappers
from secateur.holding._elsewhere import Elsewhere
from secateur.holding._memory import clear_slots
from secateur.holding._refusals import refuse_arguments, refuse_held, refuse_other_parameters
from secateur.holding._slot import Shelf, Slot, leak_text, slots_of
from secateur.masks import Masks, require_masks, unwrap

__all__ = ["Hold", "held", "hold"]


def hold(model: nn.Module, masks: Masks, *, on_step: Callable[[int], None] | None = None) -> Hold:
    """Zero the pruned weights and keep them zero while the model trains, in your own loop, unchanged.

    Training a held model is, bit for bit, training w ⊙ m: a dense parameter w multiplied by the mask m in
    the forward, with the optimizer stepping w. It works with every optimizer built on
    `torch.optim.Optimizer`, made before or after this call, and costs nothing in the forward. The hold lives
    as long as the model, whether you keep the returned object or not; copies and pickles of the model are
    held as well.

    Args:
        model: the model, bare or wrapped (DDP, `torch.compile`, FSDP2's `fully_shard`).
        masks: which weights stay; parameters without a mask train as before.
        on_step: called after each optimizer step, once the zeros are written, with the number of steps so
            far, counting from 1. Counted are steps of optimizers that own a held parameter, not those that a
            GradScaler skips; where several optimizers share the held parameters, one round of all counts
            once. It may call `replace`. Copies of the model do not call it.

    Raises:
        MaskError: masks that do not fit, a parameter that is held already, or a wrapper under which a zero in
            the parameter is no zero in the weight (parametrizations, `torch.nn.utils.prune`, FSDP1,
            TorchScript, quantised weights). Nothing is written then.

    >>> model = nn.Linear(2, 1)
    >>> held = hold(model, Masks({"weight": torch.tensor([[True, False]])}))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> model.weight[0, 1].item()
    0.0
    """
    refuse_arguments(model, masks, on_step)
    _wrappers.refuse(model, ())
    root = unwrap(model)
    _wrappers.refuse(root, masks)
    catch_up(root)
    refuse_held(masks.parameters(root), [other for other in _steps.watching() if isinstance(other, Hold)])
    masks.apply_(root)
    made = Hold(root, masks, on_step)
    follow(root)
    return made


def held(model: nn.Module) -> tuple[Hold, ...]:
    """Return the holds over the parameters of `model`: of a copy, of a pickle, or where none was kept.

    >>> held(nn.Linear(2, 1))
    ()
    """
    require_model(model, "held(model)")
    return tuple(dict.fromkeys(found for module in model.modules() for found in Shelf.seen(module)))


class Hold(Elsewhere):
    """A model's masks being held; `hold` makes one. As a context manager it releases when the block ends."""

    def __init__(self, model: nn.Module, masks: Masks, on_step: Callable[[int], None] | None) -> None:
        self._masks = masks
        self._on_step = on_step
        self._start(model, slots_of(model, masks))
        Shelf.of(model).own.append(self)
        self._attach(model)

    @property
    def masks(self) -> Masks:
        """The masks being held."""
        return self._masks

    @property
    def active(self) -> bool:
        """Whether the zeros are still being kept: False after `release`."""
        return self._number is not None

    def check(self) -> None:
        """Return quietly if every pruned weight is exactly zero.

        For a sharded parameter (FSDP2) each process looks at its own part.

        Raises:
            LeakError: naming the first pruned weight that is not zero, its index and its value.
            MaskError: the model has lost a held parameter.
        """
        catch_up(self._model())
        for name, parameter in self._parameters().items():
            pruned = ~shards.local_mask(self._masks[name], parameter)
            with torch.no_grad():
                leaks = shards.local(parameter).ne(0) & pruned
            if bool(leaks.any()):
                raise LeakError(leak_text(name, parameter, leaks))

    def project(self) -> None:
        """Write the zeros now, not at the next optimizer step: after loading dense weights, say.

        Also the way to hold under an optimizer that is no `torch.optim.Optimizer`: call it after each step.
        """
        model = self._model()
        catch_up(model)
        self._parameters()
        self._masks.apply_(model)
        follow(model)

    def replace(self, masks: Masks, *, forget: bool = True) -> None:
        """Hold other masks for the same parameters from now on; newly pruned weights are zeroed at once.

        A weight that comes back starts at zero, and the optimizer's memory (momentum, second moments) of what comes
        back and of what goes starts anew, in every optimizer that has stepped the held parameters: what it remembers
        of an entry belongs to another life of it. `forget=False` leaves that memory alone, for masks that a
        checkpoint brings along with the optimizer's own state.

        Raises:
            MaskError: released already, other parameters than before, or a wrong shape; nothing is written.
        """
        if not self.active:
            raise MaskError("this hold was released; call hold(model, masks) for a new one")
        require_masks(masks, "held.replace(masks)")
        model = self._model()
        refuse_other_parameters(self._masks, masks, model)
        catch_up(model)
        masks.apply_(model)
        before, self._masks = self._masks, masks
        for slot in self._slots:
            slot.replace_mask(masks[slot.name])
            parameter = slot.parameter()
            if forget and parameter is not None:
                clear_slots(self._optimizers, parameter, before[slot.name] ^ masks[slot.name])
        follow(model)

    def release(self) -> None:
        """Stop holding: the hooks go, the zeros stay and may now be trained away. Twice is fine."""
        if self._number is None:
            return
        _let_go(self._slots, self._number)
        self._number = None
        for module in (self._root(), *(slot.owner() for slot in self._slots)):
            if module is not None:
                Shelf.clear(module, self)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Hold({self._masks!r}{'' if self.active else ', released'})"

    # How it lives

    def _start(self, model: nn.Module, slots: list[Slot]) -> None:
        self._root = weakref.ref(model)
        self._slots = slots
        self._moved = False  # whether layers with held parameters have been replaced by others
        self._steps = 0
        self._round: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # all that have stepped a held parameter
        self.before_step: Callable[[bool], None] | None = None  # once a step, before it moves weights; True: closure
        self._number: int | None = _steps.watch(self)
        # Nobody else refers to it: should it go with its model, its hooks must go too.
        weakref.finalize(self, _let_go, slots, self._number).atexit = False

    def _model(self) -> nn.Module:
        model = self._root()
        if model is None:
            raise MaskError("the model of this hold is gone; keep the model, not the hold alone")
        return model

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Return the held parameters by name, looked up afresh: a module may have been replaced since. Hook them."""
        self._attach(self._model())
        _wrappers.refuse(self._model(), self._masks)
        try:
            return self._masks.parameters(self._model())
        except MaskError as error:
            raise MaskError(
                f"{error} It is held, and its layer has been replaced since: `release()` this hold "
                "(secateur.held(model) finds it), and hold(model, masks) with masks of the model as it is now"
            ) from error

    def _attach(self, model: nn.Module) -> None:
        """Hook the held parameters, and let their modules keep this hold alive. Cheap where that is so already."""
        for slot in self._slots:
            owner, parameter = slot.owner(), slot.parameter()
            if owner is not None and self not in Shelf.seen(owner) and owner is not model:
                Shelf.of(owner).kept.append(self)
            if parameter is not None:
                slot.hook(parameter)

    def __getstate__(self) -> dict[str, Any]:
        places = []
        for slot in self._slots:
            owner = slot.owner()
            if owner is not None:
                places.append((slot.name, owner, Shelf.of(owner), slot.attribute, slot.parameter()))
        return {"masks": self._masks, "model": self._model(), "places": places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The copy is held like the original, but acts on nothing: an EMA model has no schedule to follow. Its
        # modules may still be empty shells here, so everything needed comes along in the state.
        self._masks = state["masks"]
        self._on_step = None
        slots = []
        for name, owner, shelf, attribute, parameter in state["places"]:
            slots.append(Slot(name, owner, attribute, self._masks[name]))
            if owner is not state["model"]:
                shelf.kept.append(self)
            if parameter is not None:
                slots[-1].hook(parameter)
        self._start(state["model"], slots)

    # What it does at each optimizer step

    def _before_step(self, owned: Set[int], optimizer: Optimizer, closure: bool) -> None:
        if self._moved or any(slot.parameter() is None for slot in self._slots):
            self._find_again(owned)
        mine = self._stepping(owned)
        with torch.no_grad():
            for slot, parameter in mine:
                slot.hook(parameter)
                self._optimizers.add(optimizer)
                if not slot.fired:  # a gradient written by hand, or by a backward before the hook was there
                    slot.see(parameter)
                    slot.mask_gradient(parameter)
        if self.before_step is not None and self._opens_round(len(mine), optimizer):
            self.before_step(closure)

    def _after_step(self, owned: Set[int], optimizer: Optimizer) -> None:
        mine = self._stepping(owned)
        with torch.no_grad():
            for slot, parameter in mine:
                slot.project(parameter)
                slot.fired = False
        self.stepped(optimizer, len(mine))

    def _stepping(self, owned: Set[int]) -> list[tuple[Slot, nn.Parameter]]:
        found = ((slot, slot.parameter()) for slot in self._slots)
        return [(slot, parameter) for slot, parameter in found if parameter is not None and id(parameter) in owned]

    def _find_again(self, owned: Set[int]) -> None:
        """Look for parameters whose module is gone, if the stepping optimizer trains this model at all."""
        model = self._root()
        present = set() if model is None else {id(parameter) for parameter in model.parameters()}
        if model is None or not present & owned:
            return
        if any(id(slot.parameter()) not in present for slot in self._slots):
            self._parameters()
            for slot in self._slots:
                slot.unhook()
            self._slots[:] = slots_of(model, self._masks)
            self._attach(model)
        self._moved = False


def _let_go(slots: Iterable[Slot], number: int) -> None:
    for slot in slots:
        slot.unhook()
    _steps.unwatch(number)
