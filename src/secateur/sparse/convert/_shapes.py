"""The shapes that the parameters of a sparsified model had in the dense one."""

from __future__ import annotations

import torch
from torch import nn

from secateur._base.arguments import require_model
from secateur.sparse.layers import DenseState


def dense_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shape that each parameter of a sparsified model has in the dense one, by name.

    Surviving values are stored as vectors. Rules that go by the number of dimensions, weight decay for `ndim >= 2`
    above all, must look at the dense shape instead, or they take every sparse weight for a bias:

        shapes = dense_shapes(model)
        decayed = [p for name, p in model.named_parameters() if len(shapes[name]) >= 2]
        others = [p for name, p in model.named_parameters() if len(shapes[name]) < 2]
        torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])

    Parameters that are stored densely have the shape that they have.

    >>> from secateur import Masks, sparsify
    >>> from secateur.sparse import BreakEven, Machine
    >>> example = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.3),))
    >>> fast = sparsify(nn.Linear(64, 8), Masks({"weight": torch.eye(8, 64) > 0}), machine=example)
    >>> {name: (tuple(p.shape), tuple(dense_shapes(fast)[name])) for name, p in fast.named_parameters()}
    {'values': ((8,), (8, 64)), 'bias': ((8,), (8,))}
    """
    require_model(model, "dense_shapes(model)")
    found = {name: parameter.shape for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        if isinstance(module, DenseState):
            own = {f"{path}.{name}" if path else name: shape for name, shape in module.dense_shapes().items()}
            found |= {name: shape for name, shape in own.items() if name in found}
    return found
