"""The state of collectors: one running tensor per parameter, lent without a copy and never written once lent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures._measure import State
from secateur.measures._probe import Evidence, Params, Probe

#: (running value, new value) → the next running value; it may be made in the running value's buffer.
Fold = Callable[[Tensor, Tensor], Tensor]

_PREFIX = "running."


def add(running: Tensor, new: Tensor) -> Tensor:
    """Σ: add in the running value's buffer."""
    return running.add_(new)


class Running:
    """Base of collectors that keep one tensor per parameter. A subclass says in `update` what to `fold` in.

    Whatever was handed out (by `compute` or `state_dict`) or taken over from elsewhere (autograd's buffers) is not
    written again: the next update copies it first. A single measurement therefore copies nothing.
    """

    passes = 1

    def __init__(self, params: Params) -> None:
        self.params = params
        self.running: Evidence = {}
        self.updates = 0
        self._own: set[str] = set()  # names whose buffer nobody else can hold

    def update(self, probe: Probe) -> None:
        """Take in one batch, or one training step."""
        raise NotImplementedError

    def fold(self, fresh: Mapping[str, Tensor], *, by: Fold = add, own: bool = True) -> None:
        """Take in one tensor per parameter that was reached; a tensor missing here but known before counts as zero.

        Args:
            fresh: the batch's part.
            by: how it joins what is there.
            own: whether the fresh tensors are this collector's alone.
        """
        for name, tensor in fresh.items():
            if name in self.running:
                self.running[name] = by(self._writable(name), tensor)
            elif self.updates:  # reached for the first time: what came before was zero
                self.running[name] = by(torch.zeros_like(tensor), tensor)
                self._own.add(name)
            else:
                self.running[name] = tensor
                self._own.update([name] if own else [])
        for name in self.running.keys() - fresh.keys():
            old = self._writable(name)
            self.running[name] = by(old, torch.zeros_like(old))
        self.updates += 1

    def compute(self) -> Evidence:
        """Lend what has been collected so far."""
        self._own.clear()
        return dict(self.running)

    def reset(self) -> None:
        """Forget everything seen so far."""
        self.running, self.updates = {}, 0
        self._own.clear()

    def state_dict(self) -> State:
        """Return the number of updates and the running tensors."""
        self._own.clear()
        state: State = {_PREFIX + name: tensor for name, tensor in self.running.items()}
        return state | {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Tensor | int | float]) -> None:
        """Go on from a `state_dict`.

        Raises:
            SecateurError: a key that is none of this collector's.
        """
        named = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
        unknown = [key for key in state if key.removeprefix(_PREFIX) not in self.params and key != "updates"]
        if unknown or "updates" not in state or not all(isinstance(value, Tensor) for value in named.values()):
            raise SecateurError(
                f"A collector's state has 'updates' and '{_PREFIX}<parameter>' tensors of this model, got "
                f"{unknown or sorted(state)}."
            )
        self.reset()
        self.updates = int(state["updates"])
        self.running = {
            name: value.to(self.params[name].device) for name, value in named.items() if isinstance(value, Tensor)
        }

    def _writable(self, name: str) -> Tensor:
        if name not in self._own:
            self.running[name] = self.running[name].clone()
            self._own.add(name)
        return self.running[name]
