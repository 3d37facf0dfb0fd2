"""Which tensors a prune may touch: the weights of linear, convolutional, recurrent and attention layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError, nearest
from secateur.masks._memory import refuse_shared_memory

Predicate = Callable[[str, nn.Parameter], bool]
Only = Predicate | str | Sequence[str] | None

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
NORMS_AND_EMBEDDINGS = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, DataParallel or `torch.compile` wrappers.

    Parameter names are those of the innermost module, so that masks fit a model wrapped or not.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def prunable(
    model: nn.Module, only: Only = None, *, biases: bool = False, frozen: bool = False
) -> dict[str, nn.Parameter]:
    """Return the tensors that a prune may touch, in the order of `model.named_parameters()`.

    The default set is the weights of Linear, Conv*, RNN/LSTM/GRU (input-hidden and hidden-hidden) and
    MultiheadAttention layers, the classifier included. Biases, norms and embeddings are left alone, and so are a
    weight tied to an embedding and what is frozen (`requires_grad=False`). A tensor used by several modules is one
    tensor: one name, one mask, counted once. `coverage` says what was left out of a model, and why.

    Args:
        model: any module; wrappers (DDP, `torch.compile`) are looked through.
        only: narrows the default set: a predicate `(name, parameter) -> bool`, or names and globs. Globs reach frozen
            weights and the matrices of modules that are no layers of torch (`"experts.*"`) as well; biases, norms and
            embeddings by a glob that fits nothing else (`"*.bias"`). An exact name reaches every parameter.
        biases: add the biases of those layers (SNIP's own protocol counts them).
        frozen: add what is frozen.

    Raises:
        SecateurError: nothing is left to prune, a name is unknown, a layer is not initialised yet, the model is
            sparsified, or two parameters share memory without being one.

    >>> list(prunable(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))))
    ['0.weight', '2.weight']
    """
    require_model(model, "prune(model, method)")
    model = unwrap(model)
    refuse_sparsified(model, "pruning")
    catch_up(model)
    named = dict(model.named_parameters())
    _refuse_lazy(named)
    usual = _default_names(model, named, biases)
    default = {name for name in usual if frozen or named[name].requires_grad}
    if only is None:
        chosen = default
    elif callable(only):
        chosen = {name for name in default if only(name, named[name])}
    else:
        by_glob = usual | _own_matrices(model, named)
        chosen = _matching([only] if isinstance(only, str) else list(only), named, by_glob)
    if not chosen and usual and not default:
        raise SecateurError(
            f"Every weight of {type(model).__name__} is frozen (requires_grad=False), and what is frozen is left "
            'alone. Ask for it: only="*" prunes frozen weights as well.'
        )
    if not chosen:
        raise SecateurError(
            f"Nothing to prune in {type(model).__name__} with only={only!r}: expected at least one weight of a Linear, "
            f"Conv*, RNN or MultiheadAttention layer. Prunable here: {', '.join(sorted(default)) or 'none'}."
        )
    found = {name: parameter for name, parameter in named.items() if name in chosen}
    refuse_shared_memory(found, named)
    return found


def _refuse_lazy(named: dict[str, nn.Parameter]) -> None:
    for name, parameter in named.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise SecateurError(
                f"Parameter {name!r} is not initialised yet (a lazy module). Run one batch through the model first."
            )


def _default_names(model: nn.Module, named: dict[str, nn.Parameter], biases: bool) -> set[str]:
    name_of = {id(parameter): name for name, parameter in named.items()}
    excluded = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS_AND_EMBEDDINGS)
        for parameter in module.parameters(recurse=False)
    }
    found = set()
    for module in model.modules():
        for parameter in _layer_tensors(module, biases):
            if id(parameter) not in excluded and parameter.is_floating_point():
                found.add(name_of[id(parameter)])
    return found


def _own_matrices(model: nn.Module, named: dict[str, nn.Parameter]) -> set[str]:
    """Parameters of two and more dimensions that belong to no layer of torch: fused experts, low-rank factors, …"""
    known = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS_AND_EMBEDDINGS)
        for parameter in module.parameters(recurse=False)
    }
    return {
        name
        for name, parameter in named.items()
        if parameter.dim() > 1
        and "bias" not in name.rpartition(".")[2]
        and id(parameter) not in known
        and parameter.is_floating_point()
    }


def is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of torch (or GPT-2's `Conv1D`) whose weights are pruned by default."""
    known = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention, *_RECURRENT)
    return isinstance(module, known) or is_hugging_face_conv1d(module)


def layer_weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights that this very module owns, if it is such a layer; its biases are not among them."""
    return _layer_tensors(module, biases=False)


def _layer_tensors(module: nn.Module, biases: bool) -> Iterator[nn.Parameter]:
    """Yield the weights (and biases) that this very module owns, if it is a layer that computes with weights."""
    own = {name: p for name, p in module.named_parameters(recurse=False)}
    if isinstance(module, nn.Linear | nn.Bilinear | nn.modules.conv._ConvNd) or is_hugging_face_conv1d(module):
        wanted = ("weight",)
    elif isinstance(module, _RECURRENT):
        wanted = tuple(name for name in own if name.startswith("weight_"))
    elif isinstance(module, nn.MultiheadAttention):
        wanted = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    else:
        return
    yield from (own[name] for name in wanted if name in own)
    if biases:
        yield from (p for name, p in own.items() if name.startswith("bias") or name == "in_proj_bias")


def is_hugging_face_conv1d(module: nn.Module) -> bool:
    """GPT-2's `Conv1D` is a Linear with a transposed weight; known by name, so transformers is never imported."""
    weight = getattr(module, "weight", None)
    named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)  # FSDP2 makes a class of its own of each
    return named and isinstance(weight, torch.Tensor) and weight.dim() == 2


def _matching(patterns: Iterable[str], named: dict[str, nn.Parameter], by_glob: set[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern in named:
            chosen.add(pattern)
            continue
        hits = {name for name in by_glob if fnmatchcase(name, pattern)}
        hits = hits or {name for name in named if fnmatchcase(name, pattern)}
        if not hits:
            raise SecateurError(
                f"`only`: no prunable parameter matches {pattern!r}.{nearest(pattern, named)} "
                f"Prunable here: {', '.join(sorted(by_glob)) or 'none'}."
            )
        chosen |= hits
    return chosen
