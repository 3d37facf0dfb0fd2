"""What lives at the worst moment of a forward, by the life of every tensor's memory; nothing is computed on meta."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Lives"]


class Lives(TorchDispatchMode):
    """Adds up the bytes of all memory that is alive, operation by operation.

    Memory is counted from the operation that makes it until Python and torch let go of it, in the order in which the
    model's own code does. What an operation needs inside of itself and gives back is not seen.

    Attributes:
        now: bytes alive.
        peak: the most that were alive at once.
        of: path of a module → the most that were alive while it ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.of: dict[str, int] = {}
        self._known: dict[int, weakref.ref[Any]] = {}
        self._stack = [""]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and asking would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the memory of its results."""
        out = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count the memory of tensors, each as long as it lives; views share theirs."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._known:
                continue
            self.now += size
            self._known[key] = weakref.ref(storage, self._farewell(key, size))
        self.peak = max(self.peak, self.now)
        for path in self._stack[-1:]:
            self.of[path] = max(self.of.get(path, 0), self.now)

    def _farewell(self, key: int, size: int) -> Any:
        def gone(_: Any) -> None:
            self.now -= size
            del self._known[key]

        return gone

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Know which module of a copy that nobody else uses is running."""
        handles: list[Any] = []

        def push(path: str) -> Any:
            return lambda module, inputs: self._stack.append(path)

        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(push(path)))
            handles.append(module.register_forward_hook(lambda *_: self._pop(), always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _pop(self) -> None:
        self._stack.pop()
