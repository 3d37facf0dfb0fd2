"""The model that every verb of this package takes first, checked before anything else is done with it."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import SecateurError

__all__ = ["if_sparsified", "named", "refuse_sparsified", "require_model"]

#: The attribute by which a layer says that it stores surviving values only.
SPARSE = "stores_survivors"


def require_model(model: object, call: str) -> None:
    """Raise unless `model` is a module; `call` is how it is written right, `hold(model, masks)`."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, Optimizer):
        more = " Pass the network; its optimizer is not needed here."
    elif isinstance(model, type) and issubclass(model, nn.Module):
        more = f" Make one of the class first: {model.__name__}(…)."
    else:
        more = ""
    raise SecateurError(f"`model` must be an nn.Module, as in {call}, got {named(model)}.{more}")


def named(value: object) -> str:
    """Name what came instead of what was expected.

    >>> named({}), named(dict)
    ('a dict', 'the class dict')
    """
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def if_sparsified(model: nn.Module) -> str:
    """Say that a model was sparsified, and what to do about it; nothing of other models."""
    if not any(getattr(module, SPARSE, False) for module in model.modules()):
        return ""
    return (
        " The model is sparsified: of these weights only surviving values are left, which stay within their masks by "
        "themselves (secateur.sparse.report_of(model).not_held names the others). secateur.densify(model) brings the "
        "weights back, to be pruned, held, compiled or sparsified anew."
    )


def refuse_sparsified(model: nn.Module, what: str) -> None:
    """Refuse to do `what` with a model whose weights are not all there."""
    if text := if_sparsified(model):
        raise SecateurError(f"{what} needs the weights of all layers.{text}")
