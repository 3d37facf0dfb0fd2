"""What a model costs: parameters, bytes, products."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from secateur._base.errors import SecateurError
from secateur.coupling import on_meta, steps_of
from secateur.shrinking._plan import Call

__all__ = ["Cost", "cost"]


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        params: entries of parameters, a tied one once.
        macs: multiplications of one forward on the example.
        bytes: of parameters and buffers.
    """

    params: int
    macs: int
    bytes: int

    def of(self, kind: str) -> int:
        """Return one of them by its name."""
        return {"params": self.params, "macs": self.macs, "bytes": self.bytes}[kind]

    def __str__(self) -> str:
        return f"{self.params:,} parameters, {self.macs:,} MACs, {self.bytes:,} bytes"


def cost(model: nn.Module, call: Call) -> Cost:
    """Count on a meta copy, or on a real one where the model looks at values.

    Args:
        model: the model.
        call: example inputs; MACs are those of one call with them.
    """
    twin = on_meta(model)
    steps, problem = steps_of(twin, call.inputs, call.kwargs)
    if problem is not None and not any(p.is_meta for p in model.parameters()):
        steps, problem = steps_of(copy.deepcopy(model), call.inputs, call.kwargs)
    if problem is not None:
        raise SecateurError(
            f"the model does not run with these inputs: {type(problem).__name__}: {problem}"
        ) from problem
    params = list(twin.parameters())
    size = sum(t.numel() * t.itemsize for t in (*params, *{id(b): b for b in twin.buffers()}.values()))
    return Cost(sum(p.numel() for p in params), sum(step.macs for step in steps), size)
