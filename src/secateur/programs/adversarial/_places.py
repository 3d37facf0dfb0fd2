"""Where soft masks may stand in a network: behind its hidden layers, and behind named blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import fx, nn

from secateur._base.errors import SecateurError, UnfitModelError, nearest
from secateur._base.graphs import graph_of, layers_of
from secateur.measures import normalised
from secateur.programs.adversarial._soft_masks import Place

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def places_of(network: nn.Module, params: Mapping[str, nn.Parameter], blocks: Sequence[str]) -> list[Place]:
    """A mask per unit of each hidden layer, behind its batch norm if it has one; one number for each of the blocks."""
    graph = graph_of(network)
    if graph is None:
        raise UnfitModelError(
            f"{type(network).__name__} cannot be traced (torch.fx): which layers are hidden is unknown."
        )
    modules = dict(network.named_modules())
    norms, found = {id(module.weight): module for module in modules.values() if hasattr(module, "weight")}, []
    scales, nodes = normalised(network, params), layers_of(graph, network, params)
    heavy = {name: p for name, p in network.named_parameters() if p.dim() > 1}  # also what `only` leaves out
    owners = {node for each in layers_of(graph, network, heavy).values() for node in each}
    for name, calls in nodes.items():
        layer = modules.get(name.removesuffix(".weight"))
        once = len(calls) == 1 and calls[0].op == "call_module" and calls[0].target == name.removesuffix(".weight")
        if once and isinstance(layer, _LAYERS) and not _reaches_output(calls[0], owners):
            module = norms[id(scales[name])] if name in scales else layer
            found.append(Place(module, name, len(params[name])))
    if not found:
        raise UnfitModelError(f"no hidden linear layer or convolution, called once, is among {', '.join(params)}.")
    makers = {id(place.module): place.weight for place in found}
    return found + [Place(modules[path], makers[id(modules[path])], 1) for path in _named(blocks, modules, makers)]


def _named(blocks: Sequence[str], modules: Mapping[str, nn.Module], makers: Mapping[int, str]) -> list[str]:
    able = [path for path, module in modules.items() if id(module) in makers]
    chosen: list[str] = []
    for wanted in blocks:
        hits = [path for path in able if fnmatchcase(path, wanted)]
        if not hits:
            raise SecateurError(
                f"`blocks`: {wanted!r} names no hidden layer, nor the batch norm of one that has it."
                f"{nearest(wanted, able)} There are {', '.join(able)}."
            )
        chosen += [path for path in hits if path not in chosen]
    return chosen


def _reaches_output(node: fx.Node, owners: set[fx.Node]) -> bool:
    """Whether what a layer makes gets out through no other layer."""
    ahead, seen = list(node.users), set[fx.Node]()
    while ahead:
        one = ahead.pop()
        if one.op == "output":
            return True
        if one not in owners and one not in seen:
            seen.add(one)
            ahead += list(one.users)
    return False
