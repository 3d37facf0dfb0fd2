"""Prune a model block by block: each is measured behind the blocks that are already pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError, UnfitModelError, nearest
from secateur.axes import Method
from secateur.masks import Masks, Only, prunable
from secateur.measures import Batch, Loss, Needs
from secateur.pruning.blocks._stack import Stack, evaluating

#: Names or globs of modules; or with a method for each.
Blocks = Sequence[str] | Mapping[str, Method] | str

#: (stage, method, batches, names, masks, loss) → masks: prunes one block.
One = Callable[[nn.Module, Method, Iterable[Batch], list[str], Masks | None, Loss], Masks]


def prune_blocks(
    network: nn.Module,
    method: Method,
    batches: Iterable[Batch] | None,
    blocks: Blocks,
    *,
    only: Only,
    masks: Masks | None,
    one: One,
) -> Masks:
    """Prune the blocks in the order in which they are called; see `prune`."""
    if batches is None:
        raise SecateurError("`blocks` are measured one behind the other and need `batches`: a list of inputs.")
    params = prunable(network, only, biases=method.structure.biases)
    methods = _methods(network, method, blocks)
    inside = {name: [key for key in params if key.startswith(f"{name}.")] for name in methods}
    if not any(inside.values()):
        raise SecateurError(f"Nothing to prune in the blocks {', '.join(methods)}. Prunable: {', '.join(params)}.")
    stack = Stack(network, list(methods), params, batches)
    found: dict[str, Tensor] = {}
    with torch.no_grad(), evaluating(network), _given_back(network) as will_change:
        stack.begin(targets=any(wants_targets(each) for each in methods.values()))
        for number, (name, own) in enumerate(methods.items()):
            stage = stack.stage(number)
            if inside[name]:
                will_change(stage)
                seen = list(zip(stack.calls, stack.targets or [None] * len(stack.calls), strict=True))
                bits = {key: masks[key] for key in inside[name] if key in masks} if masks is not None else {}
                found |= one(stage, own, seen, inside[name], Masks(bits) if bits else None, squared_distance)
            stack.go_on(number, stage)
    return Masks(found, copy=False)


def found_in(model: nn.Module) -> list[str]:
    """The names of a model's repeated blocks: the members of its largest list of modules of one kind.

    As decoders and encoders of Hugging Face have one, `nn.TransformerEncoder`, and networks with an `nn.Sequential` or
    `nn.ModuleList` of equal parts.

    Raises:
        UnfitModelError: there is no such list.

    >>> found_in(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2, enable_nested_tensor=False))
    ['layers.0', 'layers.1']
    """
    found = {
        name: [f"{name}.{part}".lstrip(".") for part, _ in module.named_children()]
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(child) for child in module.children()}) == 1
        and len(module) > 1
        and any(True for _ in module.parameters())
    }
    if not found:
        raise UnfitModelError(
            f"{type(model).__name__} has no list of equal blocks: name the modules that are called one after the other."
        )
    return found[max(found, key=lambda name: sum(p.numel() for p in model.get_submodule(name).parameters()))]


def squared_distance(output: Tensor, target: Tensor) -> Tensor:
    """How far a block's output is from the dense one's."""
    return F.mse_loss(output, target)


def wants_targets(method: Method) -> bool:
    """Whether a method is to be shown what the dense model's block makes of the dense model's inputs."""
    repair = method.repair
    return method.needs is Needs.LABELS or (
        repair is not None
        and (getattr(repair, "targets", False) or any(m.needs is Needs.LABELS for m in repair.measures))
    )


def _methods(network: nn.Module, method: Method, blocks: Blocks) -> dict[str, Method]:
    """The blocks in the model's order, each with its method."""
    given = [blocks] if isinstance(blocks, str) else blocks
    patterns = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, method)
    known = [name for name, _ in network.named_modules() if name]
    found: dict[str, Method] = {}
    for pattern, own in patterns.items():
        hits = [pattern] if pattern in known else [name for name in known if _fits(name, pattern)]
        if not hits:
            raise SecateurError(f"`blocks`: no module is called {pattern!r}.{nearest(pattern, known)}")
        found = dict.fromkeys(hits, own) | found
    for name in found:
        outer = next((other for other in found if name.startswith(f"{other}.")), None)
        if outer is not None:
            raise SecateurError(f"`blocks`: {name!r} is inside of {outer!r}. Name one of the two.")
    return {name: found[name] for name in known if name in found}


def _fits(name: str, pattern: str) -> bool:
    """A star stands for one part of a name: `layers.*` means the layers, not what is inside of them."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


@contextmanager
def _given_back(network: nn.Module) -> Iterator[Callable[[nn.Module], None]]:
    """If a block fails, give those before it their values back. What will change is copied before it does."""
    before: dict[Tensor, Tensor] = {}

    def will_change(stage: nn.Module) -> None:
        for tensor in [*stage.parameters(), *stage.buffers()]:
            before.setdefault(tensor, tensor.detach().clone())

    try:
        yield will_change
    except BaseException:
        for tensor, value in before.items():
            tensor.copy_(value)
        raise
