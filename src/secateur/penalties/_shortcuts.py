"""Whole layers may only go where the signal has a way around them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from secateur._base.errors import UnfitModelError
from secateur._base.graphs import graph_of, layers_of


def around(network: nn.Module, params: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
    """All prunable tensors, if the inputs reach the outputs without any of their layers; else refuse the network."""
    graph = graph_of(network)
    if graph is None:
        raise UnfitModelError(
            f"{type(network).__name__} cannot be traced (torch.fx), so nothing shows that a signal has a way around "
            f"its layers, and a whole layer is only cut where it has. {_WAY_OUT}"
        )
    closed = {node for nodes in layers_of(graph, network, params).values() for node in nodes}
    if not _reaches(graph, closed):
        raise UnfitModelError(
            f"without {', '.join(params)} no signal reaches the output: whole layers can only go where each has a "
            f"shortcut around it. {_WAY_OUT}"
        )
    return params


_WAY_OUT = 'Name the layers inside residual branches with `only` (only="layer*.conv2.weight"), or cut filters.'


def _reaches(graph: fx.Graph, closed: set[fx.Node]) -> bool:
    """Whether some path leads from an input to the output through none of the `closed` nodes."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:  # in the order of computation
        if node.op == "placeholder" or (node not in closed and reached.intersection(node.all_input_nodes)):
            reached.add(node)
    return any(node.op == "output" for node in reached)
