"""Trace a model's forward for the readers that turn it into a compiled step, or say why that cannot be done."""

from __future__ import annotations

import threading

from torch import fx, nn

from secateur._base.behind import CatchUp
from secateur._base.errors import SecateurError

__all__ = ["UnsupportedError", "hooked", "refuse_hooks", "traced"]


class UnsupportedError(SecateurError):
    """The fused step cannot do this exactly, so it does not do it at all; the message says what stands in the way."""


# While torch.fx traces it replaces methods of nn.Module, for all threads.
_TRACING = threading.Lock()


def hooked(module: nn.Module) -> bool:
    """Tell whether someone listens to the module's forward or backward; a compiled step's own hook does not count."""
    if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    before = module._forward_pre_hooks
    return bool(before) and not all(isinstance(hook, CatchUp) for hook in before.values())


def refuse_hooks(model: nn.Module) -> None:
    """Raise if somebody listens to a part of the model: a compiled step calls nobody."""
    for name, module in model.named_modules():
        if hooked(module):
            raise UnsupportedError(f"{name or 'the model'!r} has a hook, which a fused step would not call")


def traced(model: nn.Module, tracer: fx.Tracer | None = None) -> fx.Graph:
    """Return the graph of the model's forward.

    >>> [node.op for node in traced(nn.Sequential(nn.Linear(2, 3))).nodes]
    ['placeholder', 'call_module', 'output']
    """
    try:
        with _TRACING:
            return (tracer or fx.Tracer()).trace(model)
    except Exception as error:  # whatever the model's own code raises when it is given a proxy
        first = str(error).split("\n")[0]
        raise UnsupportedError(f"the model's forward cannot be traced: {first}") from error
